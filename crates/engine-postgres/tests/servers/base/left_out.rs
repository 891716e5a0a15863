//! What no base backup follows: data behind a symbolic link ends a base with its name, by both ways and in
//! two ways over the network; tablespaces inside the data directory are refused; other links are told.

use tidemark_engine_postgres::base::ALERT_LEFT_OUT;

use super::*;

/// A cluster with a database of which the folder, or a file in it, was moved away and linked to.
fn linked(postgres: &Postgres, what: impl Fn(&Cluster) -> String) -> (Cluster, String) {
    let cluster = Cluster::start(postgres, &options()).expect("a cluster");
    cluster.sql("CREATE DATABASE other");
    cluster.sql("CREATE TABLE big AS SELECT generate_series(1, 1000) n; CHECKPOINT");
    let path = what(&cluster);
    cluster.stop(Stop::Fast).expect("it stops");
    let inside = cluster.data_dir().join(&path);
    let away = cluster.socket_dir().join("moved-away");
    std::fs::rename(&inside, &away).expect("moved");
    symlink(&away, &inside).expect("linked");
    cluster.start_again().expect("it starts");
    let rows = cluster.query("SELECT count(*) FROM big");
    assert_eq!(rows, "1000", "nobody notices");
    (cluster, path)
}

fn database(cluster: &Cluster) -> String {
    let oid = cluster.query("SELECT oid FROM pg_database WHERE datname = 'other'");
    format!("base/{oid}")
}

/// Why no base comes to be.
fn refused(mut bench: Bench) -> String {
    bench.begin(true);
    loop {
        match bench.slice() {
            Ok(slice) => assert!(!slice.done, "a base that lacks data looks complete"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Retry);
                return error.to_string();
            }
        }
    }
}

#[test]
fn a_database_behind_a_symbolic_link_is_in_no_base_and_that_is_an_error() {
    for postgres in [14, 15, 18].into_iter().filter_map(Postgres::of) {
        let (cluster, path) = linked(&postgres, database);
        for reading in [Reading::Remote, Reading::Local] {
            let why = refused(Bench::new(&cluster, reading));
            let named = why.contains(&path) && why.contains("symbolic link");
            assert!(named, "{reading:?} of {}: {why}", postgres.major());
        }
        // WHEN the server may not even say so
        let silent = "postgres options='-c client_min_messages=error'";
        let why = refused(Bench::of_role(&cluster, Reading::Remote, silent));
        // THEN its catalogue names what did not come
        assert!(why.contains("database \"other\" did not come"), "{why}");
    }
}

#[test]
fn one_file_behind_a_symbolic_link_is_an_error_too() {
    for postgres in [14, 17].into_iter().filter_map(Postgres::of) {
        let file = |cluster: &Cluster| cluster.query("SELECT pg_relation_filepath('big')");
        let (cluster, path) = linked(&postgres, file);
        for reading in [Reading::Remote, Reading::Local] {
            let why = refused(Bench::new(&cluster, reading));
            assert!(why.contains(&path), "{reading:?}: {why}");
        }
    }
}

#[test]
fn a_link_that_is_no_data_is_told_and_ends_nothing() {
    let Some(postgres) = Postgres::of(16) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &options()).expect("a cluster");
    symlink("/etc/hostname", cluster.data_dir().join("extra.conf")).expect("linked");
    for reading in [Reading::Remote, Reading::Local] {
        let mut bench = Bench::new(&cluster, reading);
        let taken = bench.take(true);
        assert!(taken.layout().skipped.contains_key("extra.conf"));
        // It stays told after a start, too.
        bench.reopen();
        let alerts = bench.bases().alerts();
        let told = alerts.iter().find(|alert| alert.code == ALERT_LEFT_OUT);
        let told = told.expect("it is told");
        assert!(told.message.contains("extra.conf"), "{}", told.message);
    }
}

#[test]
fn a_tablespace_inside_the_data_directory_is_refused_with_words() {
    for postgres in [15, 18].into_iter().filter_map(Postgres::of) {
        let cluster = Cluster::start(&postgres, &options()).expect("a cluster");
        cluster.sql(
            "SET allow_in_place_tablespaces = on;\nCREATE TABLESPACE inside LOCATION '';\n\
             CREATE TABLE t (n int) TABLESPACE inside",
        );
        for reading in [Reading::Remote, Reading::Local] {
            let why = refused(Bench::new(&cluster, reading));
            assert!(why.contains("allow_in_place_tablespaces"), "{why}");
        }
    }
}
