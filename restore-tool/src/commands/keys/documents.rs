//! What the `keys` commands say.

use jiff::Timestamp;
use serde::Serialize;
use tidemark_format::{KeyId, RegionName};
use tidemark_host::output::{self, Document, Table};

/// `keys new`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct KeysMade {
    /// The new repository's id.
    pub repository: String,
    /// The root's fingerprint.
    pub root: String,
    /// The identity's file.
    pub identity_file: String,
    /// The escrow copy's file.
    pub escrow_file: String,
    /// The root key's file.
    pub root_file: String,
    /// The identity's public key.
    pub recipient: String,
    /// The escrow's public key.
    pub escrow_recipient: String,
}

impl Document for KeysMade {
    const SCHEMA: &'static str = "tidemark-restore.keys-new";

    fn text(&self, out: &mut String) {
        let Self {
            repository,
            root,
            identity_file,
            escrow_file,
            root_file,
            ..
        } = self;
        let (recipient, escrow) = (&self.recipient, &self.escrow_recipient);
        out.push_str(&format!(
            "Made the keys of repository {repository}, root {root}.\n\n\
             Keep three files, none of them on the database's host:\n\
             \x20 {identity_file}\n    the recovery identity: restores need it. Keep it where you would restore.\n\
             \x20 {escrow_file}\n    a second identity: restores when the first is lost. Give it to another person or a safe.\n\
             \x20 {root_file}\n    the root key: signs who may write and read. Keep it offline.\n\n\
             On the database's host, give the two public keys (for a PostgreSQL server: --postgres URL):\n\
             \x20 tidemark-agent init --sqlite PATH --region URL \\\n    --recipient {recipient} \\\n    --recipient {escrow}\n\n\
             Then, here, let that agent write:\n\
             \x20 tidemark-restore keys enrol --all --root {root_file} --region URL\n\n\
             Print what helps when everything else is gone:\n\
             \x20 tidemark-restore keys card --identity {identity_file} --region URL\n"
        ));
    }
}

/// `keys new --repository`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct IdentityMade {
    /// The repository's id.
    pub repository: String,
    /// The root's fingerprint.
    pub root: String,
    /// The identity's file.
    pub identity_file: String,
    /// Its public key.
    pub recipient: String,
    /// The public key's id.
    pub key: KeyId,
    /// Whose it is.
    pub name: String,
}

impl Document for IdentityMade {
    const SCHEMA: &'static str = "tidemark-restore.keys-new-identity";

    fn text(&self, out: &mut String) {
        let Self {
            repository,
            root,
            identity_file,
            recipient,
            name,
            ..
        } = self;
        // As a shell takes it: a name may hold blanks and quotes.
        let name = name.replace('\'', "'\\''");
        out.push_str(&format!(
            "Made one more identity of repository {repository}, root {root}, in {identity_file}.\n\
             It opens nothing yet.\n\n\
             On the host with the root key, let agents seal to it from now on:\n\
             \x20 tidemark-restore keys enrol --recipient {recipient} \\\n    --name '{name}' --root FILE.root --region URL\n\n\
             Then, on each database's host, at once instead of within an hour:\n\
             \x20 tidemark-agent config reload\n\
             \x20 tidemark-agent snapshot --base\n"
        ));
    }
}

/// A member of the keyring.
#[derive(Debug, Clone, Serialize)]
pub(super) struct MemberListed {
    /// The key.
    pub key: KeyId,
    /// Its role.
    pub role: String,
    /// Whose it is.
    pub name: String,
    /// Since when.
    pub added_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Why.
    pub revoked_because: Option<String>,
}

/// A recipient.
#[derive(Debug, Clone, Serialize)]
pub(super) struct RecipientListed {
    /// The key's id.
    pub key: KeyId,
    /// The public key.
    pub recipient: String,
    /// Whose it is.
    pub name: String,
    /// Since when.
    pub added_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// A request that nobody has answered.
#[derive(Debug, Clone, Serialize)]
pub(super) struct RequestListed {
    /// The key that asks.
    pub key: KeyId,
    /// The role it asks for.
    pub role: String,
    /// The host.
    pub name: String,
    /// When.
    pub at: Timestamp,
}

/// Before the root's public key.
const ROOT_KEY: &str = "The root's public key, as keys/root.pem of an evidence pack holds it:\n  ";

/// `keys list`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct KeysListed {
    /// The repository.
    pub repository: String,
    /// The root's fingerprint.
    pub root: String,
    /// The root's public key itself, as `keys/root.pem` of a pack holds it, in hex; none if no keyring
    /// shows it yet.
    pub root_public_key: Option<String>,
    /// Whether it was pinned by an identity.
    pub root_pinned: bool,
    /// The keyring's version.
    pub version: u32,
    /// Who may sign.
    pub members: Vec<MemberListed>,
    /// To whom secrets are sealed.
    pub recipients: Vec<RecipientListed>,
    /// Who asks.
    pub requests: Vec<RequestListed>,
}

impl Document for KeysListed {
    const SCHEMA: &'static str = "tidemark-restore.keys-list";

    fn text(&self, out: &mut String) {
        let pinned = if self.root_pinned {
            "as pinned"
        } else {
            "not pinned: no identity given"
        };
        if self.version == 0 {
            out.push_str(&format!(
                "Repository {}, root {} ({pinned}): the root has signed no keyring yet, so nobody may sign. The \
                 first enrolment makes it\n",
                self.repository, self.root
            ));
        } else {
            out.push_str(&format!(
                "Repository {}, keyring version {}, root {} ({pinned})\n",
                self.repository, self.version, self.root
            ));
        }
        let since = |at: Timestamp| format!("since {}", output::instant(at));
        let revoked = |at: Option<Timestamp>| {
            at.map_or_else(String::new, |at| format!("REVOKED {}", output::instant(at)))
        };
        out.push_str("May sign:\n");
        let mut table = Table::new();
        for member in &self.members {
            let because = member.revoked_because.clone().unwrap_or_default();
            table.row([
                member.key.to_string(),
                member.role.clone(),
                member.name.clone(),
                since(member.added_at),
                revoked(member.revoked_at),
                because,
            ]);
        }
        table.write("  ", out);
        out.push_str("May read:\n");
        let mut table = Table::new();
        for entry in &self.recipients {
            let name = entry.name.clone();
            let (since, revoked) = (since(entry.added_at), revoked(entry.revoked_at));
            table.row([entry.key.to_string(), name, since, revoked]);
        }
        table.write("  ", out);
        self.public_keys(out);
        if !self.requests.is_empty() {
            out.push_str(
                "Ask to be enrolled (tidemark-restore keys enrol KEYID --root FILE.root):\n",
            );
            let mut table = Table::new();
            for request in &self.requests {
                table.row([
                    request.key.to_string(),
                    request.role.clone(),
                    request.name.clone(),
                    output::instant(request.at),
                ]);
            }
            table.write("  ", out);
        }
    }
}

impl KeysListed {
    /// The public keys themselves, which nobody can compute from the short names above.
    fn public_keys(&self, out: &mut String) {
        let active = self.recipients.iter();
        let active: Vec<&RecipientListed> = active.filter(|one| one.revoked_at.is_none()).collect();
        if !active.is_empty() {
            out.push_str("Their public keys (keys new --repository takes any of them):\n");
        }
        for entry in active {
            out.push_str(&format!("  {}\n", entry.recipient));
        }
        if let Some(key) = &self.root_public_key {
            out.push_str(&format!("{ROOT_KEY}{key}\n"));
        }
    }
}

/// `keys check`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct KeysChecked {
    /// The identity's key id.
    pub identity: KeyId,
    /// Whose it is, as its file says.
    pub name: Option<String>,
    /// What it opens, a line for each region and source.
    pub opens: Vec<String>,
}

impl Document for KeysChecked {
    const SCHEMA: &'static str = "tidemark-restore.keys-check";

    fn text(&self, out: &mut String) {
        let name = self.name.as_deref().unwrap_or("unnamed");
        out.push_str(&format!("Identity {name} ({}) works:\n", self.identity));
        for line in &self.opens {
            out.push_str(&format!("  {line}\n"));
        }
    }
}

/// `keys enrol`, `keys revoke`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct KeysChanged {
    /// The keyring's new version.
    pub version: u32,
    /// What was changed, a line each.
    pub changes: Vec<String>,
    /// Regions that have it.
    pub regions: Vec<RegionName>,
    /// Regions that don't, and why.
    pub exceptions: Vec<String>,
}

impl Document for KeysChanged {
    const SCHEMA: &'static str = "tidemark-restore.keys-changed";

    fn text(&self, out: &mut String) {
        for change in &self.changes {
            out.push_str(&format!("{change}\n"));
        }
        let regions: Vec<&str> = self.regions.iter().map(RegionName::as_str).collect();
        out.push_str(&format!(
            "Keyring version {} is in {}\n",
            self.version,
            regions.join(", ")
        ));
        for exception in &self.exceptions {
            out.push_str(&format!("  not in {exception}\n"));
        }
        if !self.exceptions.is_empty() {
            out.push_str("Run the same command again when they are back.\n");
        }
    }
}
