//! Being enrolled, in words: what an agent that the root has not signed for yet waits for, and the
//! command that ends it. Everything that tells people of it says the same.

use tidemark_format::KeyId;
use tidemark_host::config::Region;

/// The command that enrols `agent`, for the host that has the root key.
#[must_use]
pub fn command(agent: KeyId, regions: &[Region]) -> String {
    tidemark_cli::enrol_command(agent, regions)
}

/// What happens, what it means, what to do; `command` is [`command`]'s.
#[must_use]
pub fn waiting(command: &str) -> String {
    format!(
        "this agent is not enrolled yet: nothing that it writes would count before the root key has signed for it. On \
         the host with the root key run: {command}. The agent begins by itself, within half a minute"
    )
}

#[cfg(test)]
mod tests {
    use tidemark_host::RegionUrl;

    use super::*;

    #[test]
    fn the_command_names_every_region_as_a_shell_takes_it() {
        let urls: Vec<RegionUrl> = ["dir:/a", "s3://buc/p?region=x&insecure=1&endpoint=http://c"]
            .iter()
            .map(|url| url.parse().unwrap())
            .collect();
        let text = command(KeyId([1; 16]), &Region::from_urls(&urls));
        assert!(
            text.contains("--root FILE.root --region dir:/a --region 's3://buc/p?"),
            "{text}"
        );
        assert!(text.ends_with('\''), "{text}");
    }
}
