//! What a person is told who asks for something while the server is down.

use tidemark_testkit::postgres::{Options, Stop};

use crate::pg_restore::newest;
use crate::pg_site::PgSite;

#[test]
fn who_asks_for_a_point_while_the_server_is_down_is_told_so_and_soon() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    let daemon = site.start_protected();
    site.load(0..10);
    site.wait_protected();
    // GIVEN a server that is stopped
    site.cluster.stop(Stop::Fast).unwrap();
    // WHEN somebody asks for a point, and for a base
    let asked = [&["snapshot"][..], &["snapshot", "--base"]];
    let answers = std::thread::scope(|scope| {
        let runs = asked.map(|words| scope.spawn(|| site.site.agent(words)));
        runs.map(|run| run.join().expect("it ends"))
    });
    for ran in answers {
        // THEN they hear what it waits for, and not after the ten minutes that regions may take
        let ran = ran.ends_with(1);
        assert!(ran.took < std::time::Duration::from_secs(300), "{ran}");
        ran.says(&["Check that the server runs", "TM0109"]);
    }
    // AND once it is back, so is everything else
    site.cluster.start_again().unwrap();
    site.load(10..20);
    site.wait_protected();
    site.site.agent(&["snapshot"]).ok();
    daemon.terminate();
}
