//! Servers that are none, at log-in, after a question and in the middle of a base backup: each thing that
//! they say ends in an error that names it, in time, and with as little memory as it should.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use tidemark_engine_postgres::Lsn;
use tidemark_engine_postgres::TimelineId;
use tidemark_engine_postgres::conninfo::ConnInfo;
use tidemark_engine_postgres::replication::{
    self, BackupEvent, BackupOptions, BaseBackup, Started,
};
use tidemark_engine_postgres::wire::{Connection, Mode, WireError, WireErrorKind};

use crate::replication::Nothing;

/// Nothing here takes this long, on no machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a log-in may take where silence is the answer: that long a test waits.
const SOON: &str = "connect_timeout=2";
/// And where something is said: no machine is slower.
const LATE: &str = "connect_timeout=60";

/// What a script does next.
#[derive(Debug, Clone)]
enum Step {
    /// Says this.
    Say(Vec<u8>),
    /// Waits for one message, the first without a type.
    Hear,
    /// Says this again and again, until nobody listens.
    SayForEver(Vec<u8>),
    /// Says nothing more, and stays.
    Stay,
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 4).expect("small");
    let mut out = vec![tag];
    out.extend(length.to_be_bytes());
    out.extend(body);
    out
}

fn ask_for(kind: i32, more: &[u8]) -> Vec<u8> {
    frame(b'R', &[kind.to_be_bytes().as_slice(), more].concat())
}

fn parameter(name: &str, value: &str) -> Vec<u8> {
    frame(b'S', format!("{name}\0{value}\0").as_bytes())
}

fn error(code: &str) -> Vec<u8> {
    let fields = format!("SERROR\0VERROR\0C{code}\0Mrefused by the script\0\0");
    frame(b'E', fields.as_bytes())
}

fn row(values: &[&str]) -> Vec<u8> {
    let count = i16::try_from(values.len()).expect("few").to_be_bytes();
    let mut data = count.to_vec();
    for value in values {
        data.extend(i32::try_from(value.len()).expect("small").to_be_bytes());
        data.extend(value.as_bytes());
    }
    frame(b'D', &data)
}

fn columns(names: &[&str]) -> Vec<u8> {
    let count = i16::try_from(names.len()).expect("few").to_be_bytes();
    let mut description = count.to_vec();
    for name in names {
        description.extend(name.as_bytes());
        description.extend([0; 19]);
    }
    frame(b'T', &description)
}

fn done() -> Vec<u8> {
    frame(b'C', b"DONE\0")
}

fn copy(body: &[u8]) -> Vec<u8> {
    frame(b'd', body)
}

/// Lets in, as a server of `version`.
fn welcome(version: &str) -> Vec<Step> {
    let said = [
        ask_for(0, b""),
        parameter("server_version", version),
        frame(b'Z', b"I"),
    ];
    vec![Step::Hear, Step::Say(said.concat())]
}

fn play(script: &[Step], link: &mut TcpStream) -> std::io::Result<()> {
    let mut greeted = false;
    for step in script {
        match step {
            Step::Say(bytes) => link.write_all(bytes)?,
            Step::Hear => {
                let mut head = [0; 5];
                let from = usize::from(!greeted);
                link.read_exact(&mut head[from..])?;
                greeted = true;
                let [_, length @ ..] = head;
                let length = usize::try_from(u32::from_be_bytes(length)).expect("fits");
                link.read_exact(&mut vec![0; length - 4])?;
            }
            Step::SayForEver(bytes) => loop {
                link.write_all(bytes)?;
            },
            Step::Stay => {
                let mut heard = [0; 512];
                while link.read(&mut heard)? > 0 {}
            }
        }
    }
    Ok(())
}

/// A server that plays `script` to each that comes; how to reach it.
fn server(script: Vec<Step>, more: &str) -> ConnInfo {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for link in listener.incoming() {
            let script = script.clone();
            std::thread::spawn(move || drop(link.and_then(|mut link| play(&script, &mut link))));
        }
    });
    let text = format!("host=127.0.0.1 port={port} user=u dbname=d sslmode=disable {more}");
    ConnInfo::parse(&text, &Nothing).expect("a connection string")
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_elapsed| panic!("it never ends: {what}"))
}

async fn refused_at_log_in(what: &str, script: Vec<Step>, more: &str, kind: WireErrorKind) {
    let limit = if kind == WireErrorKind::Gone {
        SOON
    } else {
        LATE
    };
    let info = server(script, &format!("{limit} {more}"));
    let opened = in_time(what, Connection::open(&info, Mode::Physical)).await;
    let refused = opened.err().unwrap_or_else(|| panic!("let in: {what}"));
    assert_eq!(refused.kind(), kind, "{what}: {refused}");
}

/// What is said, what else the connection string has, and what comes of it.
type LogIn = (&'static str, Vec<Step>, &'static str, WireErrorKind);

fn odd_greetings() -> Vec<LogIn> {
    use Step::{Hear, Say, SayForEver, Stay};
    use WireErrorKind::{Busy, Denied, Gone, Protocol, Refused};
    let notice = frame(b'N', b"SNOTICE\0C00000\0Mhello\0\0");
    let page = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
    let half = b"R\0\0".to_vec();
    let long = b"R\x03\0\0\0".to_vec();
    let huge = b"R\x7F\xFF\xFF\xFF".to_vec();
    let bytes = vec![7; 4096];
    vec![
        ("nothing", vec![Hear, Stay], "", Gone),
        ("a hang-up", vec![Hear], "", Gone),
        ("a web page", vec![Hear, Say(page), Stay], "", Protocol),
        (
            "half a message",
            vec![Hear, Say(half.clone()), Stay],
            "",
            Gone,
        ),
        (
            "half a message and the end",
            vec![Hear, Say(half)],
            "",
            Gone,
        ),
        // A question of 48 MiB that nobody knows.
        (
            "a long message",
            vec![Hear, Say(long), SayForEver(bytes.clone())],
            "",
            Denied,
        ),
        (
            "one of two GiB",
            vec![Hear, Say(huge), SayForEver(bytes)],
            "",
            Protocol,
        ),
        (
            "notices without end",
            vec![Hear, SayForEver(notice)],
            "",
            Gone,
        ),
        (
            "settings without end",
            vec![Hear, Say(endless_settings()), Stay],
            "",
            Protocol,
        ),
        (
            "an answer to nothing",
            vec![Hear, Say(done()), Stay],
            "",
            Protocol,
        ),
        ("a refusal", vec![Hear, Say(error("28P01"))], "", Denied),
        ("a shutdown", vec![Hear, Say(error("57P03"))], "", Busy),
        ("an odd error", vec![Hear, Say(error("XX000"))], "", Refused),
    ]
}

fn odd_questions() -> Vec<LogIn> {
    use Step::{Hear, Say, Stay};
    use WireErrorKind::{Denied, Gone, Protocol};
    let asks = |kind, more: &[u8]| vec![Hear, Say(ask_for(kind, more)), Stay];
    let scram = |challenge: &str| {
        let mut steps = asks(10, b"SCRAM-SHA-256\0\0");
        steps.pop();
        steps.extend([Hear, Say(ask_for(11, challenge.as_bytes())), Stay]);
        steps
    };
    let with = "password=secret";
    vec![
        ("Kerberos", asks(7, b""), with, Denied),
        (
            "a password, and there is none",
            asks(5, b"salt"),
            "",
            Denied,
        ),
        ("MD5 with half a salt", asks(5, b"sa"), with, Protocol),
        // sslmode=disable allows it; who takes it and says nothing more is told by that.
        ("silence after a password", asks(3, b""), with, Gone),
        ("no mechanism", asks(10, b"\0"), with, Denied),
        (
            "a foreign mechanism",
            asks(10, b"OAUTHBEARER\0\0"),
            with,
            Denied,
        ),
        (
            "another's nonce",
            scram("r=other,s=QSXCR+Q6sek8bf92,i=4096"),
            with,
            Denied,
        ),
        ("no challenge", scram("e=no"), with, Denied),
        (
            "work for years",
            scram("r=other,s=QSXCR+Q6sek8bf92,i=4000000000"),
            with,
            Denied,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_said_at_log_in_ends_in_time_with_what_it_is() {
    for (what, script, more, kind) in [odd_greetings(), odd_questions()].concat() {
        refused_at_log_in(what, script, more, kind).await;
    }
}

fn endless_settings() -> Vec<u8> {
    let settings = (0..5000).map(|n| parameter(&format!("setting_{n}"), "on"));
    let mut said = ask_for(0, b"");
    settings.for_each(|setting| said.extend(setting));
    said
}

/// A connection to a server that then does `steps`.
async fn welcomed(version: &str, steps: Vec<Step>) -> Connection {
    let info = server([welcome(version), steps].concat(), LATE);
    Connection::open(&info, Mode::Physical)
        .await
        .expect("let in")
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_none_are_told_and_an_endless_one_is_cut_short() {
    use Step::{Hear, Say, SayForEver};
    let many = row(&["x".repeat(60_000).as_str()]);
    let cases = [
        ("rows without end", SayForEver(many)),
        ("another message", Say(frame(b'W', &[0, 0, 0]))),
        ("an unknown one", Say(frame(b'?', b""))),
        (
            "a row that lies about its length",
            Say(frame(b'D', &[0, 1, 0x7F, 0xFF, 0xFF, 0xFF])),
        ),
        (
            "columns that are cut",
            Say(frame(b'T', &[0x7F, 0xFF, b'a'])),
        ),
        (
            "no identity",
            Say([columns(&["a"]), row(&["1"]), done(), frame(b'Z', b"I")].concat()),
        ),
        (
            "timeline 0",
            Say([
                columns(&["systemid", "timeline", "xlogpos"]),
                row(&["7", "0", "0/1"]),
                done(),
                frame(b'Z', b"I"),
            ]
            .concat()),
        ),
    ];
    for (what, step) in cases {
        let mut connection = welcomed("17.4", vec![Hear, step, Step::Stay]).await;
        let asked = in_time(what, replication::identify(&mut connection)).await;
        let told = asked.err().unwrap_or_else(|| panic!("believed: {what}"));
        assert_eq!(told.kind(), WireErrorKind::Protocol, "{what}: {told}");
    }
}

/// The position and the tablespaces that a backup begins with.
fn backup_begins() -> Vec<u8> {
    [
        columns(&["recptr", "tli"]),
        row(&["0/2000028", "1"]),
        done(),
        columns(&["spcoid", "spclocation", "size"]),
        row(&["16384", "/srv/space", "8"]),
        done(),
        frame(b'H', &[0, 0, 0]),
    ]
    .concat()
}

/// Reads a backup to its end: how many bytes came, or why it is none.
async fn backup(version: &str, steps: Vec<Step>) -> Result<usize, WireError> {
    let connection = welcomed(version, steps).await;
    let options = BackupOptions {
        label: "base".to_owned(),
        fast: true,
        rate_kilobytes: None,
        verify_checksums: true,
        manifest: false,
        zstd_level: None,
    };
    let mut backup = BaseBackup::start(connection, &options).await?;
    let mut bytes = 0;
    while let Some(event) = backup.next().await? {
        if let BackupEvent::Data(data) = event {
            bytes += data.len();
        }
    }
    Ok(bytes)
}

/// How a backup of 999 bytes goes on that is none, and what comes of it.
fn odd_endings(position: &[u8], ready: &[u8]) -> Vec<(&'static str, Vec<u8>, WireErrorKind)> {
    use WireErrorKind::{Busy, Gone, Protocol, Refused};
    let copied = frame(b'c', b"");
    let nowhere = [columns(&["a"]), row(&["none"]), done()].concat();
    let ended = [copied.as_slice(), position].concat();
    vec![
        (
            "dies in the middle",
            copy(&[b'd'; 999])[..500].to_vec(),
            Gone,
        ),
        ("dies between messages", copy(&[b'd'; 999]), Gone),
        ("dies after the copy", copied.clone(), Gone),
        ("dies before it is done", ended.clone(), Gone),
        ("an error in the middle", error("58030"), Busy),
        ("a file that is gone", error("42704"), Refused),
        ("a message of another kind", copy(b"?"), Protocol),
        ("progress that is cut", copy(b"p\0\0"), Protocol),
        ("a name without end", copy(b"nbase.tar"), Protocol),
        ("a row inside", row(&["1"]), Protocol),
        ("log instead", frame(b'W', &[0, 0, 0]), Protocol),
        (
            "no position at its end",
            [copied.as_slice(), nowhere.as_slice(), ready].concat(),
            Protocol,
        ),
        (
            "an error at its end",
            [ended, error("XX000"), frame(b'Z', b"I")].concat(),
            Refused,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_breaks_off_or_goes_astray_is_none() {
    use Step::{Hear, Say};
    let position = [
        columns(&["recptr", "tli"]),
        row(&["0/2000138", "1"]),
        done(),
    ]
    .concat();
    let ready = [frame(b'C', b"BASE_BACKUP\0"), frame(b'Z', b"I")].concat();
    let whole = [frame(b'c', b""), position.clone(), ready.clone()].concat();
    let said = |end: Vec<u8>| {
        let data = copy(&[b'd'; 1000]);
        let all = [backup_begins(), copy(b"nbase.tar\0\0"), data, end].concat();
        vec![Hear, Say(all)]
    };
    let good = in_time("a backup", backup("17.4", said(whole.clone()))).await;
    assert_eq!(good.expect("whole"), 999);
    for (what, end, kind) in odd_endings(&position, &ready) {
        let broken = in_time(what, backup("17.4", said(end))).await;
        let told = broken.err().unwrap_or_else(|| panic!("whole: {what}"));
        assert_eq!(told.kind(), kind, "{what}: {told}");
    }
    // One copy more than there are archives, from a server before 15.
    let copied = frame(b'c', b"");
    let twice = [copied, frame(b'H', &[0, 0, 0]), copy(b"x"), whole].concat();
    let old = [backup_begins(), copy(b"tar"), twice].concat();
    let broken = in_time("too many copies", backup("14.1", vec![Hear, Say(old)])).await;
    assert_eq!(broken.expect_err("refused").kind(), WireErrorKind::Protocol);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_timeline_that_names_no_successor_is_told() {
    use Step::{Hear, Say};
    let begins = frame(b'W', &[0, 0, 0]);
    let names = ["next_tli", "next_tli_startpos"];
    let cases = [
        ("timeline 0", row(&["0", "0/3000100"])),
        ("no position", row(&["2", "somewhere"])),
        ("no row", Vec::new()),
    ];
    for (what, row) in cases {
        let end = [
            begins.clone(),
            frame(b'c', b""),
            columns(&names),
            row,
            done(),
            frame(b'Z', b"I"),
        ];
        let connection = welcomed("17.4", vec![Hear, Say(end.concat()), Step::Stay]).await;
        let started = replication::start(connection, Some("s"), Lsn(0), TimelineId(1)).await;
        let Started::Streaming(mut stream) = started.expect("it starts") else {
            panic!("it streams: {what}");
        };
        let told = in_time(what, stream.next()).await;
        let told = told.err().unwrap_or_else(|| panic!("believed: {what}"));
        assert_eq!(told.kind(), WireErrorKind::Protocol, "{what}: {told}");
    }
}
