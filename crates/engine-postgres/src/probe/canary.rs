//! Whether canaries can be written as they are wanted, and what to run where they can't. Pure.

use tidemark_engine::canary::CanaryForm;

use super::check::{Finding, Topic, identifier};
use super::{Server, Wanted};
use crate::canary::schema_statement;

/// What the database has of the canary's table, and what the role may do there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CanaryPlace {
    /// The table is there; whether the role may write it.
    pub table: Option<bool>,
    /// The schema is there; whether the role may make a table in it.
    pub schema: Option<bool>,
    /// The role may make schemas in the database.
    pub may_make_schema: bool,
}

/// What is to be said of canaries; nothing where none are wanted.
pub(super) fn judge(server: &Server, wanted: &Wanted) -> Option<Finding> {
    let form = wanted.canary?;
    if server.is_standby {
        return Some(Finding::fine(
            Topic::Canary,
            "a standby can't be written: the canary of its primary comes with the log, if that has one",
        ));
    }
    if form == CanaryForm::Message {
        let found = "messages in the log; no table and no privilege is needed";
        return Some(Finding::fine(Topic::Canary, found));
    }
    Some(table(server))
}

fn table(server: &Server) -> Finding {
    let (role, place) = (identifier(&server.user), server.canary);
    let database = &server.database;
    match place {
        CanaryPlace {
            table: Some(true), ..
        } => Finding::fine(
            Topic::Canary,
            format!("rows of tidemark.canary in database {database:?}"),
        ),
        CanaryPlace {
            table: Some(false), ..
        } => Finding::look(
            Topic::Canary,
            format!(
                "role {} may not write tidemark.canary in database {database:?}",
                server.user
            ),
            format!(
                "GRANT USAGE ON SCHEMA tidemark TO {role}; GRANT SELECT, INSERT, DELETE ON tidemark.canary TO {role};"
            ),
        ),
        CanaryPlace {
            schema: Some(true), ..
        }
        | CanaryPlace {
            schema: None,
            may_make_schema: true,
            ..
        } => Finding::fine(
            Topic::Canary,
            format!("the agent makes tidemark.canary in database {database:?} when it starts"),
        ),
        CanaryPlace {
            schema: Some(false),
            ..
        } => Finding::look(
            Topic::Canary,
            format!(
                "role {} may make no table in the schema tidemark of database {database:?}",
                server.user
            ),
            format!("GRANT USAGE, CREATE ON SCHEMA tidemark TO {role};"),
        ),
        CanaryPlace { .. } => Finding::look(
            Topic::Canary,
            format!(
                "role {} may not make the schema tidemark in database {database:?}",
                server.user
            ),
            schema_statement(&server.user),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Grade;

    fn said(form: Option<CanaryForm>, place: CanaryPlace, is_standby: bool) -> Option<Finding> {
        let server = Server {
            user: "tidemark".to_owned(),
            database: "shop".to_owned(),
            canary: place,
            is_standby,
            ..Server::default()
        };
        let wanted = Wanted {
            slot: String::new(),
            application_name: String::new(),
            waits_for_regions: false,
            slot_keep_max: 0,
            canary: form,
            followed: None,
            runs_as: 0,
        };
        judge(&server, &wanted)
    }

    fn place(table: Option<bool>, schema: Option<bool>, may_make_schema: bool) -> CanaryPlace {
        CanaryPlace {
            table,
            schema,
            may_make_schema,
        }
    }

    #[test]
    fn nothing_is_said_where_none_are_wanted_and_nothing_wanted_where_none_can_be() {
        assert_eq!(said(None, CanaryPlace::default(), false), None);
        let standby = said(Some(CanaryForm::Table), CanaryPlace::default(), true).expect("said");
        assert_eq!(standby.grade, Grade::Fine);
        assert!(standby.found.contains("standby"));
        let message = said(Some(CanaryForm::Message), CanaryPlace::default(), false);
        assert_eq!(message.expect("said").grade, Grade::Fine);
    }

    #[test]
    fn what_the_role_lacks_is_a_statement() {
        let table = |place| said(Some(CanaryForm::Table), place, false).expect("said");
        for fine in [
            place(Some(true), Some(false), false),
            place(None, Some(true), false),
            place(None, None, true),
        ] {
            assert_eq!(table(fine).grade, Grade::Fine, "{fine:?}");
        }
        for (lacks, statement) in [
            (
                place(Some(false), Some(true), true),
                "ON tidemark.canary TO tidemark;",
            ),
            (
                place(None, Some(false), true),
                "CREATE ON SCHEMA tidemark TO tidemark;",
            ),
            (
                place(None, None, false),
                "CREATE SCHEMA IF NOT EXISTS tidemark",
            ),
        ] {
            let found = table(lacks);
            // What is protected is protected without a canary, too.
            assert_eq!(found.grade, Grade::Look);
            assert!(found.remedy.expect("a statement").contains(statement));
        }
    }
}
