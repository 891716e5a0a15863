//! Hosts that share a schedule over two directory regions, with drills that do what the test says: each slot
//! is run once, a dead host's turn is taken, strangers are not believed, regions may be away.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tidemark_format::envelope::encode;
use tidemark_format::heads::{DrillStep, RegionHead, Role};
use tidemark_format::sign::SigningKey;
use tidemark_format::{DrillName, keys};
use tidemark_host::output::testing::Captured;
use tidemark_host::{Clock as _, Cpu, Rng, RngExt as _, SimClock, SystemRng, codes};
use tidemark_ledger::custody::{self, IdentityFile, NamedIdentity, NewKeys, first_keyring};
use tidemark_planner::drill::Verdict;
use tokio_util::sync::CancellationToken;

use super::board::{Board, Doing};
use super::conduct::{Conduct, Outcome, within};
use super::rota::Rota;
use super::{due, metrics, settle};
use crate::cli::Global;
use crate::drill::{Request, Trigger};
use crate::error::Error;
use crate::evidence::access::Access;
use crate::evidence::begun::{Begun, Unended};
use crate::repository::{Environment, Settings, Tools};

const NOON: &str = "2026-11-22T12:00:05Z";
const SLOT: &str = "2026-11-22T13:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A repository of two regions without any source.
struct Place {
    dir: tempfile::TempDir,
    clock: SimClock,
    rng: Arc<dyn Rng>,
    keys: NewKeys,
    identities: [NamedIdentity; 2],
}

impl Place {
    /// The keys of the first `enrolled` hosts are in the keyring.
    fn new(enrolled: usize) -> Self {
        let rng = SystemRng::shared();
        let now = at(NOON);
        let keys = NewKeys::generate(rng.as_ref(), now);
        let trust = keys.root.trust();
        let identities =
            ["one", "two"].map(|name| custody::new_identity(&trust, name, rng.as_ref(), now));
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
            clock: SimClock::at(now),
            rng,
            keys,
            identities,
        };
        for (host, identity) in place.identities.iter().enumerate() {
            IdentityFile::write(&place.path(&format!("identity-{host}")), identity).unwrap();
        }
        let members = (0..enrolled).map(|host| {
            let key = place.signer(host).public();
            custody::member(Role::Drill, key, format!("host-{host}"), now)
        });
        let keyring = first_keyring(
            &place.keys.root,
            vec![place.keys.identity.entry()],
            members.collect(),
            place.rng.id(),
            now,
        )
        .unwrap();
        for region in ["north", "south"] {
            let marker = RegionHead {
                repo: place.keys.repo(),
                region: place.rng.id(),
                put: place.rng.id(),
                at: now,
            };
            let signed = encode(&marker, &place.signer(0), &[]).unwrap();
            place.put(region, keys::region().as_str(), &signed);
            place.put(region, keyring.key.as_str(), &keyring.bytes);
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, region: &str, key: &str, bytes: &[u8]) {
        let path = self.path(region).join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn signer(&self, host: usize) -> SigningKey {
        let path = self.path(&format!("identity-{host}"));
        let identity = tidemark_open::Identity::load(&path, None).unwrap();
        identity.evidence_key()
    }

    fn tools(&self) -> Tools {
        Tools {
            clock: self.clock.shared(),
            rng: Arc::clone(&self.rng),
            cpu: Cpu::Inline,
            console: Captured::new(false).console,
            access: Access::default(),
        }
    }

    fn settings(&self, host: usize, regions: &[&str], rest: &str) -> Settings {
        let mut text = format!("identity = \"identity-{host}\"\n");
        for region in regions {
            let folder = self.path(region).display().to_string();
            text.push_str(&format!(
                "[[region]]\nname = \"{region}\"\nurl = \"dir:{folder}\"\n"
            ));
        }
        text.push_str(&format!(
            "[[drill]]\nname = \"hourly\"\nsource = \"app\"\nschedule = \"0 * * * *\"\n{rest}"
        ));
        if !rest.contains("claim_for") {
            text.push_str("claim_for = \"10m\"\n");
        }
        let config = self.path(&format!("restore-{host}.toml"));
        std::fs::write(&config, text).unwrap();
        let global = Global {
            config: Some(config),
            ..Global::default()
        };
        let environment = Environment {
            state_directory: Some(self.path(&format!("state-{host}"))),
            ..Environment::default()
        };
        Settings::gather(&global, &environment).unwrap()
    }

    /// A host that knows the drill since noon.
    async fn host(&self, host: usize, regions: &[&str]) -> Rota {
        let settings = self.settings(host, regions, "");
        let mut rota = Rota::new(settings, Board::default(), &self.tools()).unwrap();
        assert!(rota.look().await.due.is_empty());
        rota
    }

    fn set(&self, text: &str) {
        let now = self.clock.now();
        let passed = at(text).duration_since(now);
        self.clock.advance(Duration::try_from(passed).unwrap());
    }

    /// The steps in a region, by name.
    fn steps(&self, region: &str) -> Vec<String> {
        steps_in(&self.path(region))
    }
}

fn steps_in(region: &Path) -> Vec<String> {
    let folder = region.join("meta/drill/hourly");
    let mut all = Vec::new();
    for slot in std::fs::read_dir(folder).into_iter().flatten() {
        let slot = slot.unwrap();
        for step in std::fs::read_dir(slot.path()).unwrap() {
            let names = (slot.file_name(), step.unwrap().file_name());
            all.push(format!("{}/{}", names.0.display(), names.1.display()));
        }
    }
    all.sort();
    all
}

const BOTH: &[&str] = &["north", "south"];

/// Drills that end as they are told, in order; `PASS` when nothing is said.
#[derive(Debug, Default)]
struct Script {
    verdicts: Mutex<Vec<Verdict>>,
    takes: Duration,
    /// Ends once there are so many steps in this region.
    until: Option<(PathBuf, usize)>,
    requests: Mutex<Vec<Request>>,
}

impl Script {
    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// Waits until a drill runs.
    async fn begun(&self) {
        while self.count() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[async_trait(?Send)]
impl Conduct for Script {
    async fn conduct(
        &self,
        request: &Request,
        _settings: &Settings,
        _tools: &Tools,
        stop: &CancellationToken,
    ) -> Outcome {
        self.requests.lock().unwrap().push(request.clone());
        while let Some((region, steps)) = &self.until
            && steps_in(region).len() < *steps
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let stopped = tokio::time::timeout(self.takes, stop.cancelled()).await;
        let told = self.verdicts.lock().unwrap().pop();
        let verdict = match stopped {
            Ok(()) => Verdict::Inconclusive,
            Err(_elapsed) => told.unwrap_or(Verdict::Pass),
        };
        Outcome {
            verdict,
            evidence_id: Some("e-1".to_owned()),
            rto_ms: Some(4000),
            rpo_ms: Some(250),
            why: None,
            code: None,
        }
    }
}

fn hourly() -> DrillName {
    DrillName::new("hourly").unwrap()
}

#[tokio::test]
async fn of_two_hosts_that_are_due_at_once_one_runs_the_drill_and_the_other_sees_how_it_ended() {
    let place = Place::new(2);
    let (mut one, mut two) = (place.host(0, BOTH).await, place.host(1, BOTH).await);
    place.set(SLOT);
    let (first, second) = (one.look().await, two.look().await);
    assert_eq!((first.due.len(), second.due.len()), (1, 1));
    let (script, stop) = (Script::default(), CancellationToken::new());
    let (ran_one, ran_two) = tokio::join!(
        one.run(&first.due[0], &script, &stop),
        two.run(&second.due[0], &script, &stop)
    );
    let ran = [ran_one.unwrap(), ran_two.unwrap()];
    assert_eq!(ran.iter().flatten().count(), 1, "{ran:?}");
    assert_eq!(script.count(), 1);
    let request = script.requests.lock().unwrap()[0].clone();
    assert_eq!(request.plan.slot, Some(at(SLOT)));
    assert_eq!(request.plan.trigger, Trigger::Scheduled);
    for rota in [&mut one, &mut two] {
        let looked = rota.look().await;
        assert!(looked.due.is_empty());
        let drill = rota.board.drills().remove(&hourly()).unwrap();
        let last = drill.last.unwrap();
        assert_eq!((last.verdict.as_str(), last.rto_ms), ("PASS", Some(4000)));
        assert_eq!(drill.doing, Doing::Waiting);
        assert_eq!(drill.due_since, None);
        let text = metrics::render(&rota.board, place.clock.now());
        assert!(text.contains("tidemark_drill_rto_seconds"), "{text}");
    }
    assert_eq!(place.steps("north"), place.steps("south"));
    assert_eq!(place.steps("north").len(), 2, "{:?}", place.steps("north"));
}

#[tokio::test]
async fn a_host_that_died_loses_its_turn_when_it_is_not_renewed_and_takes_it_back_when_it_returns()
{
    for returns in [false, true] {
        let place = Place::new(2);
        let (mut one, mut two) = (place.host(0, BOTH).await, place.host(1, BOTH).await);
        place.set(SLOT);
        let due = one.look().await.due.remove(0);
        let stop = CancellationToken::new();
        let endless = Script {
            takes: Duration::from_secs(3600),
            ..Script::default()
        };
        // As a kill does: the drill ends in the middle, and nothing is said.
        tokio::select! {
            biased;
            _ran = one.run(&due, &endless, &stop) => panic!("it takes an hour"),
            () = endless.begun() => {}
        }
        drop(one);
        let script = Script::default();
        let mut successor = if returns {
            // It knows its own note: nobody else can have gone on with that turn.
            let settings = place.settings(0, BOTH, "");
            Rota::new(settings, Board::default(), &place.tools()).unwrap()
        } else {
            assert!(two.look().await.due.is_empty());
            let doing = two.board.drills().remove(&hourly()).unwrap().doing;
            assert!(matches!(doing, Doing::Elsewhere { .. }), "{doing:?}");
            place.clock.advance(Duration::from_secs(601));
            two
        };
        let due = successor.look().await.due.remove(0);
        assert_eq!((due.slot, due.attempt), (at(SLOT), 2));
        let ran = successor.run(&due, &script, &stop).await.unwrap();
        assert_eq!(ran.unwrap().verdict, Verdict::Pass);
        assert!(successor.look().await.due.is_empty());
        assert_eq!(place.steps("north").len(), 3);
    }
}

#[tokio::test]
async fn a_turn_is_kept_while_the_drill_runs() {
    let place = Place::new(2);
    let settings = place.settings(0, BOTH, "claim_for = \"1s\"\n");
    let mut one = Rota::new(settings, Board::default(), &place.tools()).unwrap();
    assert!(one.look().await.due.is_empty());
    let mut two = place.host(1, BOTH).await;
    place.set(SLOT);
    let due = one.look().await.due.remove(0);
    // Taken, and held twice (each half second).
    let script = Script {
        until: Some((place.path("south"), 3)),
        ..Script::default()
    };
    let stop = CancellationToken::new();
    one.run(&due, &script, &stop).await.unwrap().unwrap();
    // And ended; perhaps held once more before.
    assert!(
        place.steps("south").len() >= 4,
        "{:?}",
        place.steps("south")
    );
    assert!(two.look().await.due.is_empty());
}

#[tokio::test]
async fn a_stopped_daemon_gives_its_turn_back_and_the_other_host_has_it_at_once() {
    let place = Place::new(2);
    let (mut one, mut two) = (place.host(0, BOTH).await, place.host(1, BOTH).await);
    place.set(SLOT);
    let due = one.look().await.due.remove(0);
    let script = Script {
        takes: Duration::from_secs(3600),
        ..Script::default()
    };
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    let (ran, ()) = tokio::join!(one.run(&due, &script, &stop), async {
        script.begun().await;
        cancel.cancel();
    });
    assert_eq!(ran.unwrap().unwrap().verdict, Verdict::Inconclusive);
    let due = two.look().await.due.remove(0);
    assert_eq!((due.slot, due.attempt), (at(SLOT), 1));
}

#[tokio::test]
async fn an_inconclusive_drill_is_tried_again_later_and_is_told_as_overdue_in_the_end() {
    let place = Place::new(1);
    let mut rota = place.host(0, BOTH).await;
    let script = Script {
        verdicts: Mutex::new(vec![Verdict::Inconclusive; 3]),
        ..Script::default()
    };
    let stop = CancellationToken::new();
    place.set(SLOT);
    for attempt in 1..=3 {
        let due = rota.look().await.due.remove(0);
        assert_eq!(due.attempt, attempt);
        rota.run(&due, &script, &stop).await.unwrap();
        assert!(rota.look().await.due.is_empty(), "not at once");
        place.clock.advance(Duration::from_secs(900));
    }
    assert!(rota.look().await.due.is_empty());
    let drill = rota.board.drills().remove(&hourly()).unwrap();
    assert_eq!(drill.doing, Doing::GivenUp);
    assert_eq!((drill.overdue, drill.due_since), (false, Some(at(SLOT))));
    // A day without a result: every later slot ends the same way, and somebody is told.
    place.set("2026-11-23T13:00:00Z");
    rota.look().await;
    let alerts = rota.board.alerts();
    let told = alerts
        .iter()
        .find(|alert| alert.code == codes::DRILL_OVERDUE.id);
    let told = &told.unwrap().text;
    assert!(
        told.contains("25 slots") && told.contains("drill run --source app"),
        "{told}"
    );
    // One pass, and all is well.
    let due = rota.look().await.due.remove(0);
    rota.run(&due, &script, &stop).await.unwrap();
    rota.look().await;
    assert!(rota.board.alerts().is_empty(), "{:?}", rota.board.alerts());
}

#[tokio::test]
async fn a_failed_drill_is_an_alert_until_one_passes() {
    let place = Place::new(1);
    let mut rota = place.host(0, BOTH).await;
    let script = Script {
        verdicts: Mutex::new(vec![Verdict::Pass, Verdict::Fail]),
        ..Script::default()
    };
    let stop = CancellationToken::new();
    place.set(SLOT);
    let due = rota.look().await.due.remove(0);
    rota.run(&due, &script, &stop).await.unwrap();
    rota.look().await;
    let alert = rota.board.alerts().remove(0);
    assert_eq!(alert.code, codes::DRILL_FAILED.id);
    assert!(alert.text.contains("evidence show e-1"), "{}", alert.text);
    place.set("2026-11-22T14:00:00Z");
    let due = rota.look().await.due.remove(0);
    rota.run(&due, &script, &stop).await.unwrap();
    rota.look().await;
    assert!(rota.board.alerts().is_empty(), "{:?}", rota.board.alerts());
}

#[tokio::test]
async fn a_host_that_the_root_has_not_vouched_for_is_not_believed_and_is_told_so() {
    let place = Place::new(1);
    let (mut one, mut stranger) = (place.host(0, BOTH).await, place.host(1, BOTH).await);
    place.set(SLOT);
    let due = stranger.look().await.due.remove(0);
    let (script, stop) = (Script::default(), CancellationToken::new());
    stranger.run(&due, &script, &stop).await.unwrap().unwrap();
    assert!(stranger.look().await.due.is_empty(), "it believes itself");
    let alert = stranger.board.alerts().remove(0);
    assert!(alert.code == codes::NOT_ENROLLED.id && alert.text.contains("keys enrol"));
    // Its names are passed over.
    let due = one.look().await.due.remove(0);
    assert_eq!(due.attempt, 1);
    one.run(&due, &script, &stop).await.unwrap().unwrap();
    assert_eq!(place.steps("north").len(), 4);
    let asked = place.path("north").join(keys::ENROLMENTS);
    assert_eq!(
        std::fs::read_dir(asked).unwrap().count(),
        1,
        "it asks to be enrolled"
    );
}

#[tokio::test]
async fn a_region_that_is_away_keeps_nobody_from_drilling_and_no_region_at_all_keeps_everybody() {
    let place = Place::new(1);
    let mut rota = place.host(0, BOTH).await;
    let hide = |name: &str| {
        let (from, to) = (place.path(name), place.path(&format!("{name}-away")));
        std::fs::rename(from, to).unwrap();
    };
    hide("south");
    place.set(SLOT);
    place.clock.advance(Duration::from_secs(1));
    let due = rota.look().await.due.remove(0);
    let (script, stop) = (Script::default(), CancellationToken::new());
    rota.run(&due, &script, &stop).await.unwrap().unwrap();
    assert_eq!(place.steps("north").len(), 2);
    rota.look().await;
    let about: Vec<String> = rota
        .board
        .alerts()
        .into_iter()
        .map(|alert| alert.about)
        .collect();
    assert_eq!(about, ["south"]);
    hide("north");
    place.set("2026-11-22T14:00:00Z");
    for _ in 0..2 {
        assert!(rota.look().await.due.is_empty());
    }
    let doing = rota.board.drills().remove(&hourly()).unwrap().doing;
    assert_eq!(doing, Doing::Unknown);
    let line = rota.board.line(place.clock.now());
    assert!(line.contains("alert(s)"), "{line}");
}

#[tokio::test]
async fn what_is_due_is_run_once_by_a_timer_and_a_second_owner_is_refused() {
    let place = Place::new(1);
    drop(place.host(0, BOTH).await);
    place.set(SLOT);
    let file = place.path("drills.prom").display().to_string();
    let settings = || {
        let mut settings = place.settings(0, BOTH, "");
        settings.drills.metrics_file = Some(file.clone().into());
        settings
    };
    let (tools, stop) = (place.tools(), CancellationToken::new());
    let script = Script::default();
    for (ran, expected) in [(true, 1), (false, 1)] {
        let rota = Rota::new(settings(), Board::default(), &tools).unwrap();
        let second = Rota::new(settings(), Board::default(), &tools).unwrap_err();
        assert!(matches!(second, Error::DrillsOwned { .. }), "{second}");
        let (document, exit) = due::run(rota, &script, &tools, &stop).await.unwrap();
        assert_eq!(exit, tidemark_host::Exit::Ok);
        assert_eq!(document.drills[0].ran.is_some(), ran);
        assert_eq!(script.count(), expected);
    }
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("verdict=\"PASS\"} 1"), "{text}");
}

#[tokio::test]
async fn a_drill_that_takes_longer_than_it_may_is_ended_and_inconclusive() {
    let place = Place::new(1);
    let settings = place.settings(0, BOTH, "");
    let endless = Script {
        takes: Duration::from_secs(3600),
        ..Script::default()
    };
    let (tools, stop) = (place.tools(), CancellationToken::new());
    let request = Request::default();
    let limit = Duration::from_millis(50);
    let outcome = within(&endless, &request, (&settings, &tools), limit, &stop).await;
    assert_eq!(outcome.verdict, Verdict::Inconclusive);
    assert!(outcome.why.unwrap().contains("timeout = \"50ms\""));
    // The drill knows its limit, and ends itself by it: so its record says what ended it.
    assert_eq!(endless.requests.lock().unwrap()[0].timeout, Some(limit));
    assert_eq!(outcome.evidence_id.as_deref(), Some("e-1"));
    assert!(!stop.is_cancelled());
}

#[test]
fn the_facts_of_an_end_are_what_other_hosts_read() {
    let outcome = Outcome {
        verdict: Verdict::PassWithExceptions,
        evidence_id: None,
        rto_ms: Some(1),
        rpo_ms: None,
        why: Some("a secret detail".to_owned()),
        code: Some(codes::WITH_EXCEPTIONS),
    };
    let facts = outcome.facts();
    let names: BTreeMap<&str, String> = facts
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_string()))
        .collect();
    let expected = [
        ("code", "\"TM0301\"".to_owned()),
        ("rto_ms", "1".to_owned()),
        ("verdict", "\"PASS_WITH_EXCEPTIONS\"".to_owned()),
    ];
    assert_eq!(names, BTreeMap::from(expected));
    let step = serde_json::to_string(&DrillStep::Ended).unwrap();
    assert_eq!(step, "\"ended\"");
}

/// The types of the records that a region has.
fn records(place: &Place, region: &str) -> Vec<String> {
    let folder = place.path(region).join("meta/evidence");
    let mut kinds = Vec::new();
    for signer in std::fs::read_dir(folder).into_iter().flatten() {
        for record in std::fs::read_dir(signer.unwrap().path()).unwrap() {
            let bytes = std::fs::read(record.unwrap().path()).unwrap();
            let record = tidemark_format::evidence::Unverified::parse(&bytes).unwrap();
            let kind = &record.statement.predicate.rest["type"];
            kinds.push(kind.as_str().unwrap().to_owned());
        }
    }
    kinds.sort();
    kinds
}

#[tokio::test]
async fn what_a_process_that_died_had_begun_is_on_record_once_the_next_one_starts() {
    let place = Place::new(1);
    let settings = place.settings(0, BOTH, "");
    let state = settings.state.clone().unwrap();
    let signer = place.signer(0).public().id();
    let begin = |run: &str| {
        let result = serde_json::json!({ "verdict": "INCONCLUSIVE" });
        let fields = [
            ("run_id".to_owned(), run.into()),
            ("result".to_owned(), result),
        ];
        let unended = Unended {
            kind: crate::drill::RESTORE_DRILL.to_owned(),
            subject: Vec::new(),
            fields: fields.into_iter().collect(),
        };
        Begun::note(&state, signer, run, &unended).unwrap()
    };
    // Where nothing was begun, nothing is recorded.
    settle(&settings, &place.tools()).await.unwrap();
    assert!(records(&place, "north").is_empty());
    // GIVEN a drill of a process that is gone, and one that runs
    drop(begin("died"));
    let lives = begin("lives");
    // WHEN the daemon starts, and starts again
    for _ in 0..2 {
        settle(&settings, &place.tools()).await.unwrap();
        // THEN the one is on record in every region, once, beside the use of the key
        for region in BOTH {
            let kinds = records(&place, region);
            let drills = kinds
                .iter()
                .filter(|kind| *kind == crate::drill::RESTORE_DRILL);
            assert_eq!((drills.count(), kinds.len()), (1, 2), "{region}: {kinds:?}");
        }
    }
    lives.ended();
}
