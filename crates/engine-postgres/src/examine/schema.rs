//! A digest over every definition of a cluster's databases, equal for equal schemas.
//!
//! Made of what the server's own functions print of them, so it only compares within one major version.

use sqlx::postgres::PgConnection;
use tidemark_engine::examine::{Finding, LEVEL_LOGICAL, Status};

use super::ask::said;

/// One line for each definition. Names are qualified, because the search path holds nothing.
const QUESTIONS: &[&str] = &[
    "SELECT 'relation ' || c.oid::regclass || ' ' || c.relkind::text || c.relpersistence::text || coalesce(' ' || c.reloptions::text, '') \
     || CASE WHEN c.relkind IN ('v', 'm') THEN ' ' || pg_get_viewdef(c.oid) ELSE '' END \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND n.nspname !~ '^pg_' \
     AND n.nspname NOT IN ('information_schema', 'tidemark')",
    "SELECT 'column ' || a.attrelid::regclass || '.' || quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod) \
     || ' ' || a.attnotnull || ' ' || a.attidentity::text || a.attgenerated::text || ' ' || coalesce(pg_get_expr(d.adbin, d.adrelid), '') \
     || ' ' || coalesce(l.collname, '') FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
     JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum) \
     LEFT JOIN pg_collation l ON l.oid = a.attcollation WHERE a.attnum > 0 AND NOT a.attisdropped \
     AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND n.nspname !~ '^pg_' \
     AND n.nspname NOT IN ('information_schema', 'tidemark')",
    "SELECT 'constraint ' || coalesce(nullif(k.conrelid, 0)::regclass::text, k.contypid::regtype::text) || ' ' \
     || quote_ident(k.conname) || ' ' || pg_get_constraintdef(k.oid) FROM pg_constraint k \
     JOIN pg_namespace n ON n.oid = k.connamespace WHERE n.nspname !~ '^pg_' \
     AND n.nspname NOT IN ('information_schema', 'tidemark')",
    "SELECT 'index ' || pg_get_indexdef(i.indexrelid) || ' ' || i.indisvalid FROM pg_index i \
     JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tidemark')",
    "SELECT 'function ' || p.oid::regprocedure || ' ' || md5(pg_get_functiondef(p.oid)) FROM pg_proc p \
     JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.prokind IN ('f', 'p', 'w') AND n.nspname !~ '^pg_' \
     AND n.nspname NOT IN ('information_schema', 'tidemark')",
    "SELECT 'trigger ' || pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text FROM pg_trigger t WHERE NOT t.tgisinternal",
    "SELECT 'enum ' || e.enumtypid::regtype || ' ' || string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder) \
     FROM pg_enum e GROUP BY e.enumtypid",
    "SELECT 'domain ' || t.oid::regtype || ' ' || format_type(t.typbasetype, t.typtypmod) || ' ' || t.typnotnull \
     || coalesce(' ' || t.typdefault, '') FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
     WHERE t.typtype = 'd' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'",
    "SELECT 'extension ' || extname || ' ' || extversion FROM pg_extension",
    "SELECT 'policy ' || polrelid::regclass || ' ' || quote_ident(polname) || ' ' || polcmd::text || ' ' || polpermissive || ' ' \
     || coalesce(pg_get_expr(polqual, polrelid), '') || ' ' || coalesce(pg_get_expr(polwithcheck, polrelid), '') FROM pg_policy",
    "SELECT 'event trigger ' || evtname || ' ' || evtevent || ' ' || evtfoid::regproc || ' ' || evtenabled::text FROM pg_event_trigger",
];

/// The lines of all databases.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: Vec<String>,
    broken: Vec<String>,
}

impl Lines {
    /// The digest, and what came of it.
    pub(super) fn finding(mut self) -> (Finding, Option<String>) {
        let name = "the digest of all definitions";
        let finding = |status| Finding::new(LEVEL_LOGICAL, "postgres.schema", name, status);
        if !self.broken.is_empty() {
            let why = self.broken.join("; ");
            return (finding(Status::Failed).why(why), None);
        }
        // Its own order: a server's depends on collations.
        self.lines.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        for line in &self.lines {
            let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
            hasher.update(&length.to_le_bytes());
            hasher.update(line.as_bytes());
        }
        let digest = hasher.finalize().to_hex().to_string();
        (
            finding(Status::Recorded).actual(digest.clone()),
            Some(digest),
        )
    }
}

/// The lines of one database. The connection's search path is the system's alone.
pub(super) async fn lines(connection: &mut PgConnection, database: &str, lines: &mut Lines) {
    for question in QUESTIONS {
        let found: Result<Vec<String>, sqlx::Error> = sqlx::query_scalar(*question)
            .fetch_all(&mut *connection)
            .await;
        match found {
            Ok(found) => {
                let of_database = found.into_iter().map(|line| format!("{database}: {line}"));
                lines.lines.extend(of_database);
            }
            Err(error) => {
                let why = format!("the definitions of {database}: {}", said(&error));
                lines.broken.push(why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_asking_does_not_matter_and_every_line_does() {
        let digest = |lines: &[&str]| {
            let lines = lines.iter().map(|line| (*line).to_owned()).collect();
            Lines {
                lines,
                broken: Vec::new(),
            }
            .finding()
            .1
        };
        assert_eq!(digest(&["a", "b"]), digest(&["b", "a"]));
        assert_ne!(digest(&["a", "b"]), digest(&["ab"]));
    }
}
