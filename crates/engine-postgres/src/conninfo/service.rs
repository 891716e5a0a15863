//! Service files: named sets of parameters, `[name]` and `key=value` lines.

use std::path::{Path, PathBuf};

use super::{ConnInfoError, Pairs, Result, Surroundings};

/// The parameters of a service: from `PGSERVICEFILE` or `~/.pg_service.conf`, then the system's.
pub(super) fn find(name: &str, around: &dyn Surroundings) -> Result<Pairs> {
    let own = around
        .variable("PGSERVICEFILE")
        .map(PathBuf::from)
        .or_else(|| {
            around
                .variable("HOME")
                .map(|home| Path::new(&home).join(".pg_service.conf"))
        });
    let folder = around
        .variable("PGSYSCONFDIR")
        .unwrap_or_else(|| "/etc/postgresql-common".to_owned());
    let system = Path::new(&folder).join("pg_service.conf");
    let looked: Vec<PathBuf> = own.into_iter().chain([system]).collect();
    for path in &looked {
        let text = around.read(path).map_err(|error| ConnInfoError::File {
            path: path.clone(),
            why: error.to_string(),
        })?;
        if let Some(found) = text
            .as_deref()
            .map(|text| section(text, name))
            .transpose()?
            .flatten()
        {
            return Ok(found);
        }
    }
    Err(ConnInfoError::Service {
        name: name.to_owned(),
        looked,
    })
}

fn section(text: &str, name: &str) -> Result<Option<Pairs>> {
    let mut found: Option<Pairs> = None;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            if found.is_some() {
                break;
            }
            if title == name {
                found = Some(Pairs::new());
            }
            continue;
        }
        let Some(pairs) = &mut found else { continue };
        let (key, value) = line.split_once('=').ok_or_else(|| {
            ConnInfoError::Syntax(format!("service {name:?} has a line without '='"))
        })?;
        let key = key.trim();
        if key == "service" || key == "servicefile" {
            return Err(ConnInfoError::Syntax(format!(
                "service {name:?} names another service: they don't nest"
            )));
        }
        pairs
            .entry(key.to_owned())
            .or_insert_with(|| value.trim().to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let text =
            "# all\n[a]\nhost=one\n\n[b]\nhost = two\nport=5433\nhost=again\n[c]\nhost=three\n";
        let b = section(text, "b").expect("valid").expect("there");
        assert_eq!(b.get("host").map(String::as_str), Some("two"));
        assert_eq!(b.get("port").map(String::as_str), Some("5433"));
        assert_eq!(section(text, "d"), Ok(None));
        assert!(section("[a]\nhost\n", "a").is_err());
        assert!(section("[a]\nservice=b\n", "a").is_err());
    }
}
