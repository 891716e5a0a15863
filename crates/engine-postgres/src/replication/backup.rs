//! `BASE_BACKUP`: the server's own copy of its data directory, as tar archives.
//!
//! Servers from 15 on send one copy with tagged messages, older ones a copy per archive; here both
//! are the same sequence of [`BackupEvent`]s: start, tablespaces, then per archive its name and data,
//! the manifest if it was asked for, and the end. A backup without its end is none.

use bytes::{Buf as _, Bytes};
use tidemark_format::postgres::{Lsn, TimelineId};

use crate::wire::{Connection, Message, ResultSet, ServerError, WireError, quote_literal};

/// Every byte was sent, and some pages' checksums are wrong.
const DATA_CORRUPTED: &str = "XX001";
/// The version that brought tagged messages and options in parentheses.
const TAGGED_SINCE: u16 = 15;

/// How a backup is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupOptions {
    /// Its name in the server's log and in `backup_label`.
    pub label: String,
    /// Checkpoint at once instead of at leisure.
    pub fast: bool,
    /// Kilobytes a second at most, 32 to 1048576.
    pub rate_kilobytes: Option<u32>,
    /// Have the server check page checksums.
    pub verify_checksums: bool,
    /// A manifest with checksums of every file.
    pub manifest: bool,
    /// Compression by the server, `zstd` and a level (from 15 on, and only if it was built with it).
    pub zstd_level: Option<u8>,
}

/// A tablespace, as the server counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTablespace {
    /// Its id and folder; none for the data directory itself.
    pub place: Option<(u32, String)>,
    /// How large it is, roughly.
    pub kilobytes: Option<u64>,
}

/// What comes, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupEvent {
    /// Replay starts here.
    Start {
        /// The checkpoint's redo position.
        at: Lsn,
        /// On this branch.
        timeline: TimelineId,
    },
    /// What will be sent.
    Tablespaces(Vec<ServerTablespace>),
    /// An archive begins.
    Archive {
        /// Its name, such as `base.tar` or `16384.tar`.
        name: String,
        /// The tablespace's folder; empty for the data directory.
        folder: String,
    },
    /// The manifest begins.
    Manifest,
    /// Bytes of what began last; may be empty.
    Data(Bytes),
    /// Bytes done in this archive, uncompressed.
    Progress(u64),
    /// The backup is whole: replay is consistent from here on.
    End {
        /// The position.
        at: Lsn,
        /// The branch.
        timeline: TimelineId,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Start,
    Tablespaces,
    /// Between copies.
    Copies,
    InCopy,
    Done,
}

/// A backup that runs.
#[derive(Debug)]
pub struct BaseBackup {
    connection: Connection,
    tagged: bool,
    manifest: bool,
    phase: Phase,
    /// Archives that untagged copies will bring, in order.
    coming: std::collections::VecDeque<BackupEvent>,
    bad_pages: bool,
}

impl BaseBackup {
    /// Starts one.
    ///
    /// # Errors
    /// The connection is gone. What the server objects to comes with the first event.
    pub async fn start(
        mut connection: Connection,
        options: &BackupOptions,
    ) -> Result<Self, WireError> {
        // What it leaves out it only warns of.
        connection.keep_notices();
        let tagged = connection.major() >= Some(TAGGED_SINCE);
        let command = if tagged {
            command(options)
        } else {
            old_command(options)
        };
        connection.start_query(&command).await?;
        Ok(Self {
            connection,
            tagged,
            manifest: options.manifest,
            phase: Phase::Start,
            coming: std::collections::VecDeque::new(),
            bad_pages: false,
        })
    }

    /// The next event; none after the end. May be dropped while it waits.
    ///
    /// # Errors
    /// The connection's, or the server's: the backup is over and worth nothing then.
    pub async fn next(&mut self) -> Result<Option<BackupEvent>, WireError> {
        match self.phase {
            Phase::Start => {
                let set = self.rows().await?;
                self.phase = Phase::Tablespaces;
                let (at, timeline) = position(&set)?;
                Ok(Some(BackupEvent::Start { at, timeline }))
            }
            Phase::Tablespaces => {
                let set = self.rows().await?;
                self.phase = Phase::Copies;
                let tablespaces = tablespaces(&set)?;
                if !self.tagged {
                    self.expect_archives(&tablespaces);
                }
                Ok(Some(BackupEvent::Tablespaces(tablespaces)))
            }
            Phase::Copies => self.between().await.map(Some),
            Phase::InCopy => self.inside().await.map(Some),
            Phase::Done => Ok(None),
        }
    }

    fn expect_archives(&mut self, tablespaces: &[ServerTablespace]) {
        for tablespace in tablespaces {
            self.coming.push_back(match &tablespace.place {
                Some((id, folder)) => BackupEvent::Archive {
                    name: format!("{id}.tar"),
                    folder: folder.clone(),
                },
                None => BackupEvent::Archive {
                    name: "base.tar".to_owned(),
                    folder: String::new(),
                },
            });
        }
        if self.manifest {
            self.coming.push_back(BackupEvent::Manifest);
        }
    }

    /// One result set, up to its command's end.
    async fn rows(&mut self) -> Result<ResultSet, WireError> {
        let mut set = ResultSet::default();
        loop {
            match self.connection.expect().await? {
                Message::Columns(columns) => set.columns = columns,
                Message::Row(row) => set.rows.push(row),
                Message::Complete(tag) => {
                    set.tag = tag;
                    return Ok(set);
                }
                _ => return Err(ODD),
            }
        }
    }

    async fn between(&mut self) -> Result<BackupEvent, WireError> {
        loop {
            match self.connection.expect().await? {
                Message::CopyOut => {
                    self.phase = Phase::InCopy;
                    if self.tagged {
                        return self.inside().await;
                    }
                    return self.coming.pop_front().ok_or(ODD);
                }
                Message::Complete(_) => {}
                Message::Columns(columns) => {
                    let mut set = self.rows().await?;
                    set.columns = columns;
                    let (at, timeline) = position(&set)?;
                    // "BASE_BACKUP", and ready. That pages are wrong is said here, after everything.
                    match self.connection.results().await {
                        Err(error) if error.code() == Some(DATA_CORRUPTED) => self.bad_pages = true,
                        other => drop(other?),
                    }
                    self.phase = Phase::Done;
                    return Ok(BackupEvent::End { at, timeline });
                }
                _ => return Err(ODD),
            }
        }
    }

    async fn inside(&mut self) -> Result<BackupEvent, WireError> {
        match self.connection.expect().await? {
            Message::CopyData(data) if self.tagged => tagged(data),
            Message::CopyData(data) => Ok(BackupEvent::Data(data)),
            Message::CopyDone => {
                self.phase = Phase::Copies;
                Box::pin(self.between()).await
            }
            _ => Err(ODD),
        }
    }

    /// Paths that the server has left out since the last call, because they are neither files nor folders:
    /// relative ones begin with `./`, those in tablespaces are absolute.
    pub fn left_out(&mut self) -> Vec<String> {
        let notices = self.connection.take_notices();
        notices.iter().filter_map(left_out).collect()
    }

    /// Whether the server ended the backup by saying that pages have wrong checksums; it sent them.
    #[must_use]
    pub const fn has_bad_pages(&self) -> bool {
        self.bad_pages
    }

    /// The connection, once the backup is done.
    #[must_use]
    pub fn into_connection(self) -> Connection {
        self.connection
    }
}

const ODD: WireError = WireError::Protocol("BASE_BACKUP was not answered as it should be");

fn command(options: &BackupOptions) -> String {
    let checkpoint = if options.fast { "fast" } else { "spread" };
    let mut list = format!(
        "LABEL {}, PROGRESS true, CHECKPOINT '{checkpoint}', WAL false, WAIT false, TABLESPACE_MAP true, VERIFY_CHECKSUMS {}",
        quote_literal(&options.label),
        options.verify_checksums
    );
    if options.manifest {
        list.push_str(", MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256'");
    } else {
        list.push_str(", MANIFEST 'no'");
    }
    if let Some(rate) = options.rate_kilobytes {
        list.push_str(&format!(", MAX_RATE {rate}"));
    }
    if let Some(level) = options.zstd_level {
        list.push_str(&format!(
            ", COMPRESSION 'zstd', COMPRESSION_DETAIL 'level={level}'"
        ));
    }
    format!("BASE_BACKUP ({list})")
}

/// As servers before 15 want it: keywords in this order, no compression.
fn old_command(options: &BackupOptions) -> String {
    let mut command = format!(
        "BASE_BACKUP LABEL {} PROGRESS",
        quote_literal(&options.label)
    );
    if options.fast {
        command.push_str(" FAST");
    }
    command.push_str(" NOWAIT");
    if let Some(rate) = options.rate_kilobytes {
        command.push_str(&format!(" MAX_RATE {rate}"));
    }
    command.push_str(" TABLESPACE_MAP");
    if !options.verify_checksums {
        command.push_str(" NOVERIFY_CHECKSUMS");
    }
    if options.manifest {
        command.push_str(" MANIFEST 'yes' MANIFEST_CHECKSUMS 'SHA256'");
    }
    command
}

/// The path that a warning says was left out. Its words are in the server's language.
fn left_out(notice: &ServerError) -> Option<String> {
    let text = &notice.message;
    let is_one = match &notice.routine {
        Some(routine) => routine == "sendDir" && notice.severity == "WARNING",
        None => text.starts_with("skipping special file"),
    };
    let slash = text.find('/').filter(|_| is_one)?;
    let from = slash.saturating_sub(usize::from(text.get(..slash)?.ends_with('.')));
    let path = text.get(from..)?;
    let quotes = [
        '"', '\u{ab}', '\u{bb}', '\u{201c}', '\u{201d}', '\u{201e}', '\u{300d}',
    ];
    let path = path.split(quotes).next().unwrap_or(path);
    Some(path.trim().to_owned())
}

fn position(set: &ResultSet) -> Result<(Lsn, TimelineId), WireError> {
    // The columns are called recptr and tli in every version; their order is what counts.
    let row = set.rows.first();
    let text = |column| row.and_then(|row| row.text(column));
    let at = text(0).and_then(|at| at.parse().ok());
    let timeline = text(1).and_then(|id| id.parse::<u32>().ok());
    match (at, timeline.filter(|id| *id > 0)) {
        (Some(at), Some(timeline)) => Ok((at, TimelineId(timeline))),
        _ => Err(ODD),
    }
}

fn tablespaces(set: &ResultSet) -> Result<Vec<ServerTablespace>, WireError> {
    set.rows
        .iter()
        .map(|row| {
            let place = match (row.text(0), row.text(1)) {
                (None, _) => None,
                (Some(id), Some(folder)) => {
                    let id = id.parse().map_err(|_not_a_number| ODD)?;
                    Some((id, folder.to_owned()))
                }
                (Some(_), None) => return Err(ODD),
            };
            let kilobytes = row.text(2).and_then(|size| size.parse().ok());
            Ok(ServerTablespace { place, kilobytes })
        })
        .collect()
}

/// A tagged copy message.
fn tagged(mut data: Bytes) -> Result<BackupEvent, WireError> {
    const CUT: WireError = WireError::Protocol("a message of a base backup is cut");
    let tag = data.try_get_u8().map_err(|_short| CUT)?;
    match tag {
        b'd' => Ok(BackupEvent::Data(data)),
        b'm' => Ok(BackupEvent::Manifest),
        b'p' => {
            let done = data.try_get_u64().map_err(|_short| CUT)?;
            Ok(BackupEvent::Progress(done))
        }
        b'n' => {
            let mut texts = data.split(|byte| *byte == 0);
            let mut text = || {
                let bytes = texts.next()?;
                std::str::from_utf8(bytes).ok().map(str::to_owned)
            };
            let name = text().ok_or(CUT)?;
            let folder = text().ok_or(CUT)?;
            Ok(BackupEvent::Archive { name, folder })
        }
        _ => Err(WireError::Protocol(
            "a base backup carries an unknown message",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> BackupOptions {
        BackupOptions {
            label: "tide's base".to_owned(),
            fast: true,
            rate_kilobytes: Some(1024),
            verify_checksums: false,
            manifest: true,
            zstd_level: Some(1),
        }
    }

    #[test]
    fn commands_are_worded_for_the_servers_version() {
        assert_eq!(
            command(&options()),
            "BASE_BACKUP (LABEL 'tide''s base', PROGRESS true, CHECKPOINT 'fast', WAL false, WAIT false, \
             TABLESPACE_MAP true, VERIFY_CHECKSUMS false, MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256', \
             MAX_RATE 1024, COMPRESSION 'zstd', COMPRESSION_DETAIL 'level=1')"
        );
        assert_eq!(
            old_command(&options()),
            "BASE_BACKUP LABEL 'tide''s base' PROGRESS FAST NOWAIT MAX_RATE 1024 TABLESPACE_MAP \
             NOVERIFY_CHECKSUMS MANIFEST 'yes' MANIFEST_CHECKSUMS 'SHA256'"
        );
    }

    #[test]
    fn tagged_messages_are_read_and_an_empty_one_is_no_end() {
        let event = |bytes: &'static [u8]| tagged(Bytes::from_static(bytes));
        assert_eq!(
            event(b"nbase.tar\0\0").expect("an archive"),
            BackupEvent::Archive {
                name: "base.tar".to_owned(),
                folder: String::new()
            }
        );
        assert_eq!(event(b"d").expect("data"), BackupEvent::Data(Bytes::new()));
        assert_eq!(
            event(b"p\0\0\0\0\0\0\x01\0").expect("progress"),
            BackupEvent::Progress(256)
        );
        assert!(event(b"").is_err() && event(b"p\0").is_err() && event(b"x").is_err());
        assert!(event(b"nbase.tar").is_err());
    }

    #[test]
    fn what_the_server_leaves_out_is_read_in_every_language() {
        let notice = |routine: Option<&str>, message: &str| ServerError {
            severity: "WARNING".to_owned(),
            message: message.to_owned(),
            routine: routine.map(str::to_owned),
            ..ServerError::default()
        };
        for (message, path) in [
            ("skipping special file \"./base/16384\"", "./base/16384"),
            (
                "\u{fc}berspringe besondere Datei \u{bb}./base/5/2619\u{ab}",
                "./base/5/2619",
            ),
            (
                "omission du fichier sp\u{e9}cial \u{ab} /srv/a.b/PG_15_2/1 \u{bb}",
                "/srv/a.b/PG_15_2/1",
            ),
        ] {
            let told = left_out(&notice(Some("sendDir"), message));
            assert_eq!(told.as_deref(), Some(path));
        }
        let english = notice(None, "skipping special file \"./x\"");
        assert_eq!(left_out(&english).as_deref(), Some("./x"));
        for other in [
            notice(
                Some("sendFile"),
                "checksum verification failed in file \"./base/1/2\"",
            ),
            notice(
                None,
                "file \"./base/1/2\" has a total of 2 checksum failures",
            ),
            notice(Some("sendDir"), "nothing"),
        ] {
            assert_eq!(left_out(&other), None);
        }
    }
}
