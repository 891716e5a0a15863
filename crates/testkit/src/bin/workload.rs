//! The load generator as a program: the job comes as JSON, in the variable `TIDEMARK_WORKLOAD_JOB`
//! or as the only argument; the summary goes to standard output. `create PATH BYTES [PAGE_SIZE]`
//! makes a database to begin with.

use std::path::PathBuf;

use tidemark_testkit::sqlite::{self, Job, Shape};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["create", path, bytes, rest @ ..] => {
            let page_size = rest.first().map_or(Ok(4096), |size| size.parse())?;
            let shape = Shape {
                bytes: bytes.parse()?,
                page_size,
                ..Shape::default()
            };
            sqlite::create(&PathBuf::from(path), &shape)?;
        }
        [json] => {
            let summary = sqlite::run(&serde_json::from_str::<Job>(json)?)?;
            let line = format!("SUMMARY {}\n", serde_json::to_string(&summary)?);
            std::io::Write::write_all(&mut std::io::stdout().lock(), line.as_bytes())?;
        }
        [] if sqlite::run_if_child()? => {}
        _ => anyhow::bail!("usage: workload JSON | workload create PATH BYTES [PAGE_SIZE]"),
    }
    Ok(())
}
