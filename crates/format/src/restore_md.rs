//! `RESTORE.md`: plain text at a repository's root, for someone who has nothing but the bucket.

use crate::RepoId;

/// The text for a repository. It depends on nothing else, so every writer makes the same bytes.
#[must_use]
pub fn text(repo: RepoId) -> String {
    format!(
        "# This is a Tidemark repository\n\
         \n\
         Repository {repo}, format version 1. It holds encrypted backups of databases. Do not change,\n\
         move or delete anything here by hand.\n\
         \n\
         ## To get a database back\n\
         \n\
         1. Find the recovery identity: a file that begins with `tidemark-identity-1` and names this\n   \
            repository. It, or its escrow copy, was kept away from the database's host on purpose.\n   \
            Without one of them nobody can read the data, whoever they are.\n\
         2. Install `tidemark-restore` on any Linux host. No agent, no database, no config is needed.\n\
         3. See what there is (needs no identity), then restore:\n\
         \n    \
             tidemark-restore list    --region 'URL'\n    \
             tidemark-restore plan    --region 'URL' --identity 'FILE' --source NAME --to latest --target 'PATH'\n    \
             tidemark-restore restore --region 'URL' --identity 'FILE' --source NAME --to latest --target 'PATH'\n\
         \n   \
            URL is where this file stands: `dir:/path` or `s3://bucket/prefix?endpoint=…&region=…`.\n   \
            FILE is the identity of step 1, NAME a source that `list` shows, PATH the file to make: it\n   \
            must not exist yet. A bucket's access key is taken from AWS_ACCESS_KEY_ID and\n   \
            AWS_SECRET_ACCESS_KEY, or from ~/.aws/credentials (`&profile=…` names one of several);\n   \
            `&ca=/path/ca.pem` trusts a certificate authority of your own.\n   \
            Give `--region` once for each copy you have. `--to` takes a time, e.g. `2026-11-21T14:31:00Z`;\n   \
            `--before` stops just short of it.\n\
         4. The tool checks every signature and hash, and says which instant it reached.\n\
         \n\
         ## Without the tool\n\
         \n\
         The bytes are specified in `docs/FORMAT.md` of Tidemark's source, where `docs/decode.py`\n\
         restores a repository with nothing but Python and three of its packages.\n\
         \n\
         What stands where: `meta/` holds signed, readable records (`claim`, `log`, `point`, `base`,\n\
         `beat`, `keyring`, `evidence`), `data/` encrypted pages and sealed session secrets.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_the_repository_and_the_commands() {
        let text = text(RepoId([0xab; 16]));
        assert!(text.contains(&"ab".repeat(16)));
        assert!(text.contains("tidemark-restore restore --region 'URL'"));
    }
}
