//! Bases from real servers, 14 to 18: written back with the log they start a server with equal
//! content; the next one holds only what changed; what was interrupted never looks complete.

mod left_out;

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;
use tidemark_engine::{BaseSlice, BaseStart, Error, ErrorKind, PageRun, Wake};
use tidemark_engine_postgres::Lsn;
use tidemark_engine_postgres::base::{
    ALERT_BAD_PAGES, ALERT_BASE_WAITS, Bases, LogStart, Reading, Settings,
};
use tidemark_engine_postgres::conninfo::ConnInfo;
use tidemark_format::LogSeq;
use tidemark_format::body::FileEntry;
use tidemark_format::postgres::layout::{LAYOUT_PATH, Layout};
use tidemark_host::{Pace, SystemClock};
use tidemark_testkit::postgres::{Cluster, Options, Owner, Postgres, Stop};
use tokio::runtime::Runtime;

use crate::replication::Nothing;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const SLICE_BYTES: usize = 1 << 20;
/// Past every position: the log is as far as it is asked for.
const ALL_OF_THE_LOG: Lsn = Lsn(u64::MAX);

/// Counts the calls of a wake, to be waited for.
#[derive(Default)]
struct Bell {
    rung: Mutex<u64>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    /// Waits until it was rung more often than `seen`.
    fn wait(&self, seen: u64) -> u64 {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(rung, PATIENCE, |rung| *rung <= seen);
        let (rung, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "nothing happens");
        *rung
    }
}

/// A cluster's bases, as the capture uses them.
struct Bench {
    _runtime: Runtime,
    folder: tempfile::TempDir,
    bell: Arc<Bell>,
    system: u64,
    settings: Settings,
    reading: Reading,
    bases: Option<Bases>,
}

fn pace(rate: &str) -> Pace {
    let rate = rate.parse().expect("a rate");
    Pace::new(rate, TimeZone::UTC, SystemClock::shared())
}

/// A base that was read to its end.
#[derive(Debug)]
struct Taken {
    start: BaseStart,
    runs: Vec<PageRun>,
    files: Vec<FileEntry>,
}

impl Taken {
    fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.bytes.len()).sum()
    }

    fn number(&self, path: &str) -> Option<usize> {
        self.files.iter().position(|file| file.path == path)
    }

    fn layout(&self) -> Layout {
        let image = image(&[self]);
        Layout::decode(&image[LAYOUT_PATH]).expect("a layout")
    }
}

impl Bench {
    fn new(cluster: &Cluster, reading: Reading) -> Self {
        Self::of_role(cluster, reading, "postgres")
    }

    fn of_role(cluster: &Cluster, reading: Reading, role: &str) -> Self {
        let text = format!("host={} user={role}", cluster.socket_dir().display());
        let bell = Arc::new(Bell::default());
        let rings = Arc::clone(&bell);
        let runtime = Runtime::new().expect("a runtime");
        let settings = Settings {
            info: ConnInfo::parse(&text, &Nothing).expect("a connection string"),
            runtime: runtime.handle().clone(),
            label: "tidemark".to_owned(),
            fast_checkpoint: true,
            pace: pace(""),
            readers: 3,
            wake: Wake::new(move || rings.ring()),
        };
        let system = cluster.query("SELECT system_identifier FROM pg_control_system()");
        let mut bench = Self {
            _runtime: runtime,
            folder: tempfile::tempdir().expect("a folder"),
            bell,
            system: system.parse().expect("a number"),
            settings,
            reading,
            bases: None,
        };
        bench.reopen();
        bench
            .bases()
            .open_generation([7; 32])
            .expect("a generation");
        bench
    }

    /// As after a crash.
    fn reopen(&mut self) {
        self.bases = None;
        let folder = self.folder.path().join("bases");
        let mut bases = Bases::open(folder, self.settings.clone()).expect("it opens");
        bases.read_from(self.reading);
        self.bases = Some(bases);
    }

    fn bases(&mut self) -> &mut Bases {
        self.bases.as_mut().expect("open")
    }

    fn begin(&mut self, complete: bool) -> BaseStart {
        let log = LogStart {
            system: self.system,
            from: Lsn(0),
        };
        let start = self.bases().begin(LogSeq(9), complete, log);
        start.expect("it begins")
    }

    /// The next slice that holds anything or ends the base.
    fn slice(&mut self) -> Result<BaseSlice, Error> {
        let mut seen = 0;
        loop {
            let slice = self.bases().slice(SLICE_BYTES, ALL_OF_THE_LOG)?;
            if slice.done || !slice.runs.is_empty() {
                return Ok(slice);
            }
            seen = self.bell.wait(seen);
        }
    }

    /// A base, published.
    fn take(&mut self, complete: bool) -> Taken {
        let start = self.begin(complete);
        self.read_to_the_end(start)
    }

    fn read_to_the_end(&mut self, start: BaseStart) -> Taken {
        let mut runs = Vec::new();
        loop {
            let slice = self.slice().expect("it goes on");
            runs.extend(slice.runs);
            if slice.done {
                self.bases().stands().expect("it stands");
                self.bases().done().expect("remembered");
                let files = slice.files;
                return Taken { start, runs, files };
            }
        }
    }
}

/// The files of the newest base of a chain, oldest first.
fn image(chain: &[&Taken]) -> BTreeMap<String, Vec<u8>> {
    let newest = chain.last().expect("a base");
    let length = |bytes: u64| usize::try_from(bytes).expect("fits");
    let mut files: Vec<Vec<u8>> = newest
        .files
        .iter()
        .map(|file| vec![0xEE; length(file.bytes)])
        .collect();
    for run in chain.iter().flat_map(|base| &base.runs) {
        assert_eq!(run.bytes.len() % 8192, 0);
        assert_eq!(
            run.bytes.len() / 8192,
            usize::try_from(run.count).expect("fits")
        );
        let to = &mut files[usize::try_from(run.file).expect("fits")];
        let at = length(run.first) * 8192;
        if let Some(to) = to.get_mut(at..) {
            let length = to.len().min(run.bytes.len());
            to[..length].copy_from_slice(&run.bytes[..length]);
        }
    }
    let named = newest.files.iter().map(|file| file.path.clone()).zip(files);
    named.filter(|(path, _)| !path.is_empty()).collect()
}

/// Everything below a folder to the owner of servers.
fn own(path: &Path) {
    Owner::get().own(path).expect("owned");
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).expect("listed") {
            own(&entry.expect("an entry").path());
        }
    }
}

/// Writes a chain of bases and the log of `from` into a new cluster, and starts it.
fn restored(chain: &[&Taken], from: &Cluster) -> Cluster {
    let to = Cluster::empty(from.postgres()).expect("a folder");
    let data = to.data_dir();
    let mut files = image(chain);
    let layout = Layout::decode(&files[LAYOUT_PATH]).expect("a layout");
    std::fs::create_dir(&data).expect("made");
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
    };
    for space in &layout.tablespaces {
        let place = to.socket_dir().join(format!("space-{}", space.oid));
        std::fs::create_dir(&place).expect("made");
        set(&place, 0o700);
        std::fs::create_dir_all(data.join("pg_tblspc")).expect("made");
        symlink(&place, data.join(format!("pg_tblspc/{}", space.oid))).expect("linked");
        own(&place);
    }
    for folder in &layout.folders {
        std::fs::create_dir_all(data.join(folder)).expect("made");
        set(&data.join(folder), layout.mode(folder, true));
    }
    // The links are made already, and elsewhere.
    files.remove("tablespace_map");
    for (path, bytes) in &files {
        let path = data.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, bytes).expect("written");
        set(&path, 0o600);
    }
    for entry in std::fs::read_dir(from.data_dir().join("pg_wal")).expect("listed") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("known").is_file() {
            std::fs::copy(entry.path(), data.join("pg_wal").join(entry.file_name()))
                .expect("copied");
        }
    }
    let conf = data.join("postgresql.conf");
    let mut text = std::fs::read_to_string(&conf).expect("read");
    text.push_str(&format!(
        "\nunix_socket_directories = '{}'\n",
        to.socket_dir().display()
    ));
    std::fs::write(&conf, text).expect("written");
    own(&data);
    for space in &layout.tablespaces {
        own(&to.socket_dir().join(format!("space-{}", space.oid)));
    }
    set(&data, 0o700);
    to.start_again().expect("it starts");
    to
}

/// What a cluster holds: every ordinary table's rows, large objects.
fn content(cluster: &Cluster) -> String {
    let tables = cluster.query(
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(relname) FROM pg_class c \
         JOIN pg_namespace n ON n.oid = relnamespace \
         WHERE relkind = 'r' AND relpersistence = 'p' AND nspname LIKE 's%' ORDER BY 1",
    );
    let mut sql = String::from(
        "SELECT 'large', loid, pageno, md5(data) FROM pg_largeobject ORDER BY 2, 3;\n",
    );
    for table in tables.lines() {
        sql.push_str(&format!(
            "SELECT '{table}', count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} t;\n"
        ));
    }
    cluster.query(&sql)
}

/// A folder for a tablespace.
fn space() -> tempfile::TempDir {
    let space = tempfile::tempdir().expect("a folder");
    Owner::get().own(space.path()).expect("owned");
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(space.path(), private).expect("private");
    space
}

fn options() -> Options {
    Options::default()
        .with("wal_keep_size", "512MB")
        .with("autovacuum", "off")
}

/// A cluster with tables of every kind, large objects and a tablespace.
fn furnished(postgres: &Postgres) -> (Cluster, tempfile::TempDir) {
    let cluster = Cluster::start(postgres, &options()).expect("a cluster");
    let space = space();
    cluster.sql(&format!(
        "CREATE TABLESPACE far LOCATION '{}'; CREATE SCHEMA s;
         CREATE TABLE s.near AS SELECT n, md5(n::text) AS t FROM generate_series(1, 60000) n;
         CREATE INDEX ON s.near (n);
         CREATE TABLE s.far TABLESPACE far AS SELECT n, md5(n::text) AS t FROM generate_series(1, 20000) n;
         CREATE UNLOGGED TABLE s.fleeting AS SELECT generate_series(1, 1000) n;
         CREATE TABLE s.dropped AS SELECT generate_series(1, 5000) n;
         CREATE TABLE s.shrinks AS SELECT generate_series(1, 50000) n;
         SELECT lo_from_bytea(0, decode(repeat('abcdef', 5000), 'hex')) > 0;",
        space.path().display()
    ));
    (cluster, space)
}

fn restores_what_the_server_had(postgres: &Postgres, reading: Reading) {
    // GIVEN a cluster with a bit of everything
    let (cluster, _space) = furnished(postgres);
    let mut bench = Bench::new(&cluster, reading);
    assert!(bench.bases().needs_complete());
    // WHEN a base is taken
    let first = bench.take(false);
    // THEN it is complete, lists the tablespace, and its image has no page of ours left out
    assert!(first.start.complete, "the first of a generation");
    assert_eq!(first.files[0].path, LAYOUT_PATH);
    let layout = first.layout();
    assert_eq!(layout.major, postgres.major());
    assert_eq!(layout.tablespaces.len(), 1);
    assert_eq!(layout.bad_pages_total, 0, "{:?}", layout.bad_pages);
    assert!(layout.checksums && !layout.standby);
    assert_eq!((layout.file_mode, layout.folder_mode), (0o600, 0o700));
    assert_eq!(layout.modes, BTreeMap::new());
    assert!(layout.folders.iter().any(|folder| folder == "pg_wal"));
    assert!(first.number("backup_label").is_some());
    assert!(!bench.bases().needs_complete());
    // AND after changes of every kind the next one holds little
    let dropped = cluster.query("SELECT pg_relation_filepath('s.dropped')");
    let near = cluster.query("SELECT pg_relation_filepath('s.near')");
    cluster.sql(
        "UPDATE s.near SET t = 'changed' WHERE n = 30000;
         DROP TABLE s.dropped;
         DELETE FROM s.shrinks WHERE n > 10000; VACUUM s.shrinks;
         CREATE TABLE s.new AS SELECT generate_series(1, 3000) n; CHECKPOINT;",
    );
    let second = bench.take(false);
    assert!(!second.start.complete);
    assert!(
        second.bytes() * 5 < first.bytes(),
        "{} of {} bytes",
        second.bytes(),
        first.bytes()
    );
    assert_eq!(
        second.number(&near),
        first.number(&near),
        "numbers are stable"
    );
    let gone = first.number(&dropped).expect("it was there");
    assert_eq!(second.files[gone].path, "", "its place is kept");
    // AND after a table grew again, and with a server that is written to meanwhile
    cluster.sql("INSERT INTO s.shrinks SELECT generate_series(1, 30000)");
    let start = bench.begin(false);
    cluster.sql("INSERT INTO s.near SELECT n, 'meanwhile' FROM generate_series(1, 20000) n");
    let third = bench.read_to_the_end(start);
    cluster.sql("INSERT INTO s.near VALUES (0, 'after')");
    let expected = content(&cluster);
    cluster.stop(Stop::Fast).expect("it stops");
    // THEN the chain and the log bring everything back
    let back = restored(&[&first, &second, &third], &cluster);
    assert_eq!(content(&back), expected);
    assert_eq!(
        back.query("SELECT count(*) FROM s.fleeting"),
        "0",
        "unlogged tables are empty"
    );
    back.sql("INSERT INTO s.fleeting VALUES (1); INSERT INTO s.far VALUES (0, 'x')");
}

#[test]
fn a_chain_of_bases_and_the_log_start_a_server_with_equal_content_on_every_major() {
    for postgres in Postgres::all() {
        restores_what_the_server_had(&postgres, Reading::Remote);
    }
}

#[test]
fn so_does_a_chain_that_was_read_from_the_data_directory_on_every_major() {
    for postgres in Postgres::all() {
        restores_what_the_server_had(&postgres, Reading::Local);
    }
}

#[test]
fn a_base_is_done_only_once_the_log_is_received_to_its_end() {
    let Some(postgres) = Postgres::of(17) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &options()).expect("a cluster");
    let mut bench = Bench::new(&cluster, Reading::Local);
    bench.begin(true);
    let mut seen = 0;
    // GIVEN a base whose last page was given out
    let stop = loop {
        let slice = bench
            .bases()
            .slice(SLICE_BYTES, Lsn(0))
            .expect("it goes on");
        assert!(!slice.done && slice.files.is_empty());
        match bench.bases().stop_lsn() {
            Some(stop) if slice.runs.is_empty() => break stop,
            Some(_) => {}
            None if slice.runs.is_empty() => seen = bench.bell.wait(seen),
            None => {}
        }
    };
    let start = bench.bases().start_lsn().expect("told");
    assert!(start < stop);
    // WHEN the log ends a byte before
    bench.bell.wait(seen);
    let slice = bench
        .bases()
        .slice(SLICE_BYTES, Lsn(stop.0 - 1))
        .expect("it waits");
    // THEN it isn't done, and published it can't be
    assert!(!slice.done);
    let error = bench.bases().stands().expect_err("not read to its end");
    assert_eq!(error.kind(), ErrorKind::Retry);
    // AND with that byte it is
    loop {
        let slice = bench.bases().slice(SLICE_BYTES, stop).expect("it goes on");
        if slice.done {
            assert!(slice.files.len() > 500);
            break;
        }
        assert!(bench.bases().is_running());
        std::thread::yield_now();
    }
    bench.bases().stands().expect("it stands");
}

/// A cluster of 16 whose base takes more than a slice.
fn roomy() -> Option<Cluster> {
    let cluster = Cluster::start(&Postgres::of(16)?, &options()).expect("a cluster");
    cluster.sql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 200000) n");
    Some(cluster)
}

#[test]
fn an_interrupted_base_never_looks_complete() {
    let Some(cluster) = roomy() else {
        return;
    };
    for reading in [Reading::Remote, Reading::Local] {
        interrupts_bases(&cluster, reading);
    }
}

fn interrupts_bases(cluster: &Cluster, reading: Reading) {
    let mut bench = Bench::new(cluster, reading);
    // GIVEN a base that was begun when the agent was killed
    bench.begin(false);
    bench.slice().expect("some pages");
    bench.reopen();
    // THEN it is known as unfinished, and the next one is complete
    assert!(bench.bases().needs_complete());
    let unfinished = bench.bases().unfinished().expect("it was begun");
    assert!(unfinished.complete && unfinished.start == LogSeq(9));
    bench.bases().abandoned();
    assert_eq!(bench.bases().unfinished(), None);
    // AND one whose connection breaks says so
    bench.begin(false);
    bench.slice().expect("some pages");
    cluster.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'walsender'",
    );
    let error = loop {
        match bench.slice() {
            Ok(slice) => assert!(!slice.done, "the connection was broken before its end"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    assert!(bench.bases().stands().is_err() && bench.bases().needs_complete());
    bench.bases().abandoned();
    // AND so does one whose server is killed
    bench.begin(false);
    bench.slice().expect("some pages");
    cluster.stop(Stop::Kill).expect("it is killed");
    let error = loop {
        match bench.slice() {
            Ok(slice) => assert!(!slice.done, "the server was killed before its end"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    bench.bases().abandoned();
    cluster.start_again().expect("it starts");
    assert!(bench.take(false).start.complete);
}

#[test]
fn a_base_of_a_standby_that_is_interrupted_is_made_anew_and_starts_a_server() {
    let Some(cluster) = roomy() else {
        return;
    };
    let standby = cluster.standby("standby").expect("a standby");
    let expected = "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY n)) FROM t";
    let rows = cluster.query(expected);
    let mut taken = Vec::new();
    for reading in [Reading::Remote, Reading::Local] {
        interrupts_bases(&standby, reading);
        taken.push(Bench::new(&standby, reading).take(true));
    }
    standby.stop(Stop::Fast).expect("it stops");
    for mut base in taken {
        assert!(base.layout().standby);
        // What makes it a standby, which is not what is to be shown.
        let signal = base.number("standby.signal").expect("a standby's file");
        base.files[signal].path.clear();
        let back = restored(&[&base], &standby);
        assert_eq!(back.query(expected), rows);
    }
}

#[test]
fn a_base_is_read_no_faster_than_its_rate() {
    let Some(cluster) = roomy() else {
        return;
    };
    let clock = SystemClock::shared();
    for reading in [Reading::Remote, Reading::Local] {
        let mut bench = Bench::new(&cluster, reading);
        bench.settings.pace = pace("16MiB 0-24, 64KiB");
        bench.reopen();
        let before = clock.monotonic();
        let bytes = bench.take(true).bytes();
        let took = clock.monotonic().since(before).as_secs_f64();
        let least = f64::from(u32::try_from(bytes).expect("some megabytes")) / f64::from(16 << 20);
        // The last pieces need not be waited for.
        assert!(
            took > least * 0.9,
            "{reading:?}: {took} s for {bytes} bytes"
        );
        // AND the next one, in which nothing changed, is read no faster
        let before = clock.monotonic();
        bench.take(false);
        let took = clock.monotonic().since(before).as_secs_f64();
        assert!(took > least * 0.9, "{reading:?}: {took} s for nothing new");
    }
}

#[test]
fn interrupted_bases_leave_the_published_one_as_the_parent() {
    let Some(cluster) = roomy() else {
        return;
    };
    let mut bench = Bench::new(&cluster, Reading::Remote);
    // GIVEN a published base and one that was interrupted
    assert!(bench.take(false).start.complete);
    bench.begin(false);
    bench.reopen();
    // THEN the next one holds what differs from the published one
    assert!(!bench.bases().needs_complete());
    bench.bases().abandoned();
    let next = bench.take(false);
    assert!(!next.start.complete && next.bytes() < 4 << 20);
    // AND a base whose publication was heard of only after a restart counts
    bench.begin(false);
    while !bench.slice().expect("it goes on").done {}
    bench.reopen();
    bench.bases().done().expect("remembered");
    assert!(!bench.bases().needs_complete());
    // AND damaged digests cost a complete base
    for entry in std::fs::read_dir(bench.folder.path().join("bases")).expect("listed") {
        let path = entry.expect("an entry").path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("base-"))
        {
            std::fs::write(path, "x").expect("damaged");
        }
    }
    assert!(bench.take(false).start.complete);
}

fn tells_bad_pages(postgres: &Postgres, reading: Reading) {
    // GIVEN a page that changed on the server's disk
    let cluster = Cluster::start(postgres, &options()).expect("a cluster");
    cluster.sql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n");
    let path = cluster.query("SELECT pg_relation_filepath('t')");
    cluster.stop(Stop::Fast).expect("it stops");
    let file = std::fs::File::options()
        .write(true)
        .open(cluster.data_dir().join(&path));
    let file = file.expect("the table's file");
    let write = |bytes: &[u8], at: u64| file.write_all_at(bytes, at).expect("written");
    write(b"damage", 3 * 8192 + 5000);
    // One that changed since the backup's start, which replay writes anew; and one that nobody wrote yet.
    write(&[0xFF; 8], 5 * 8192);
    write(b"torn", 5 * 8192 + 5000);
    let end = file.metadata().expect("known").len();
    write(&[0; 8192], end);
    cluster.start_again().expect("it starts");
    // WHEN a base is taken
    let mut bench = Bench::new(&cluster, reading);
    let base = bench.take(true);
    // THEN it holds the page, and says so
    let layout = base.layout();
    assert_eq!(layout.bad_pages_total, 1, "{:?}", layout.bad_pages);
    assert_eq!(layout.bad_pages[0].page, 3);
    let number = usize::try_from(layout.bad_pages[0].file).expect("fits");
    assert_eq!(base.files[number].path, path);
    assert!(image(&[&base])[&path][3 * 8192 + 5000..].starts_with(b"damage"));
    let alerts = bench.bases().alerts();
    assert_eq!(alerts.len(), 1);
    assert_eq!(alerts[0].code, ALERT_BAD_PAGES);
    assert!(
        alerts[0].message.contains(&format!("page 3 of {path}")),
        "{}",
        alerts[0].message
    );
    // AND still after a restart, until the next base finds it right again
    bench.reopen();
    assert_eq!(bench.bases().alerts().len(), 1);
    cluster.sql("TRUNCATE t; CHECKPOINT");
    bench.take(false);
    assert_eq!(bench.bases().alerts(), []);
}

#[test]
fn a_page_that_is_wrong_on_the_server_is_told_and_stops_no_base_on_every_major() {
    for postgres in Postgres::all() {
        tells_bad_pages(&postgres, Reading::Remote);
        tells_bad_pages(&postgres, Reading::Local);
    }
}

#[test]
fn settings_outside_the_data_directory_come_with_the_base() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    // GIVEN settings as Debian keeps them
    let elsewhere = space();
    let write = |name: &str, text: &str| -> PathBuf {
        let path = elsewhere.path().join(name);
        std::fs::write(&path, text).expect("written");
        own(&path);
        path
    };
    let hba = write(
        "pg_hba.conf",
        "local all all trust\nlocal replication all trust\n",
    );
    let more = write("more.conf", "work_mem = '5MB'\n");
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let options = options()
        .with("hba_file", &text(&hba))
        .with("include_if_exists", &text(&more));
    let cluster = Cluster::start(&postgres, &options).expect("a cluster");
    // WHEN a base is taken
    let mut bench = Bench::new(&cluster, Reading::Auto);
    let base = bench.take(true);
    // THEN they are in it, and the layout says where they belong
    let layout = base.layout();
    let files = image(&[&base]);
    assert_eq!(layout.settings.len(), 2, "{layout:?}");
    for (source, settings) in [(&hba, "local all"), (&more, "work_mem")] {
        let listed = layout
            .settings
            .iter()
            .find(|file| file.source == text(source));
        let path = listed.and_then(|file| file.path.as_ref()).expect("kept");
        assert!(path.starts_with("tidemark-config/"));
        assert!(files[path].starts_with(settings.as_bytes()));
    }
    assert_eq!(layout.settings_notes, Vec::<String>::new());
    // AND a role that may not see them leaves a note instead of failing the base
    cluster.sql("CREATE ROLE ship REPLICATION LOGIN; CREATE DATABASE ship");
    let mut bench = Bench::of_role(&cluster, Reading::Auto, "ship");
    let layout = bench.take(true).layout();
    assert_eq!(layout.settings, []);
    assert!(
        layout.settings_notes[0].contains("pg_read_all_settings"),
        "{layout:?}"
    );
    // AND it takes bases over the network only, for it may not start one by itself
    let mut bench = Bench::of_role(&cluster, Reading::Local, "ship");
    bench.begin(true);
    let error = bench.slice().expect_err("refused");
    assert!(error.to_string().contains("EXECUTE"), "{error}");
}

#[test]
fn twenty_thousand_small_files_make_a_base_and_none_of_them_the_next() {
    let Some(postgres) = Postgres::of(18) else {
        return;
    };
    // GIVEN 5,000 tables with a key and a long column: four files each
    let options = options().with("max_locks_per_transaction", "1000");
    let cluster = Cluster::start(&postgres, &options).expect("a cluster");
    let script: String = (0..10)
        .map(|schema| {
            format!(
                "CREATE SCHEMA s{schema};
                 DO $$ BEGIN FOR n IN 1..500 LOOP
                   EXECUTE format('CREATE TABLE s{schema}.t%s (id int PRIMARY KEY, t text)', n);
                   EXECUTE format('INSERT INTO s{schema}.t%s VALUES (%s, ''x'')', n, n);
                 END LOOP; END $$;\n"
            )
        })
        .collect();
    cluster.sql(&script);
    cluster.sql("CHECKPOINT");
    let mut bench = Bench::new(&cluster, Reading::Remote);
    // WHEN a base and the next one are taken, one over the network and one from the disk
    let first = bench.take(true);
    bench.bases().read_from(Reading::Local);
    let second = bench.take(false);
    // THEN both list them all, and the second holds next to nothing
    assert!(first.files.len() > 20_000, "{}", first.files.len());
    let paths =
        |base: &Taken| -> Vec<String> { base.files.iter().map(|file| file.path.clone()).collect() };
    let moved = paths(&first)
        .iter()
        .zip(paths(&second))
        .filter(|(before, after)| **before != *after && !after.is_empty())
        .count();
    assert_eq!(moved, 0, "every file keeps its number");
    assert!(second.bytes() < 8 << 20, "{} bytes", second.bytes());
    // AND the chain starts a server
    let expected = cluster.query("SELECT count(*), sum(relpages) FROM pg_class");
    cluster.stop(Stop::Fast).expect("it stops");
    let back = restored(&[&first, &second], &cluster);
    assert_eq!(
        back.query("SELECT count(*), sum(relpages) FROM pg_class"),
        expected
    );
    assert_eq!(back.query("SELECT id FROM s7.t499"), "499");
}

#[test]
fn a_base_of_a_standby_waits_for_a_restart_point_in_the_captured_log() {
    let Some(postgres) = Postgres::of(17) else {
        return;
    };
    // GIVEN a standby whose last restart point lies before the log that is captured
    let primary = Cluster::start(&postgres, &options()).expect("a cluster");
    let standby = primary.standby("standby").expect("a standby");
    primary.sql("CREATE TABLE s AS SELECT generate_series(1, 1000) n");
    for reading in [Reading::Remote, Reading::Local] {
        waits_for_a_restart_point(&primary, &standby, reading);
    }
}

fn waits_for_a_restart_point(primary: &Cluster, standby: &Cluster, reading: Reading) {
    primary.sql("INSERT INTO s SELECT generate_series(1, 1000)");
    let log = LogStart {
        system: primary
            .query("SELECT system_identifier FROM pg_control_system()")
            .parse()
            .expect("a number"),
        from: primary
            .query("SELECT pg_current_wal_flush_lsn()")
            .parse()
            .expect("a position"),
    };
    let mut bench = Bench::new(standby, reading);
    bench
        .bases()
        .begin(LogSeq(1), true, log)
        .expect("it begins");
    let deadline = (0..6000).find(|_| {
        std::thread::sleep(Duration::from_millis(20));
        !bench.bases().alerts().is_empty()
    });
    assert!(deadline.is_some(), "it says that it waits");
    assert_eq!(bench.bases().alerts()[0].code, ALERT_BASE_WAITS);
    // WHEN the primary makes a checkpoint and the standby has it
    primary.sql("CHECKPOINT");
    let end: Lsn = primary
        .query("SELECT pg_current_wal_flush_lsn()")
        .parse()
        .expect("a position");
    let follows = (0..6000).find(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let at = standby.query("SELECT pg_last_wal_replay_lsn()");
        at.parse::<Lsn>().is_ok_and(|at| at >= end)
    });
    assert!(follows.is_some(), "the standby follows");
    // THEN the base goes on, and starts in the log
    while !bench.slice().expect("it goes on").done {}
    let start = bench.bases().start_lsn().expect("told");
    assert!(start >= log.from && bench.bases().alerts().is_empty());
}

#[test]
fn another_server_than_the_captured_one_is_refused() {
    let Some(postgres) = Postgres::of(14) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &options()).expect("a cluster");
    let mut bench = Bench::new(&cluster, Reading::Auto);
    bench.system += 1;
    bench.begin(true);
    let error = bench.slice().expect_err("refused");
    assert!(error.to_string().contains("system identifier"), "{error}");
}
