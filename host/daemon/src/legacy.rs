//! The command line of the agent that Apgar replaces: it had flags and no subcommands.

use std::ffi::OsString;

/// The flags it knew. A first argument that is one of them, in any spelling it accepted (`-x v`, `-x=v`,
/// `--x v`, `--x=v`), means `apgar run` (`recovery` 6.2).
const FLAGS: [&str; 1] = ["kubeconfig"];

/// The arguments with `run` put in where the old spelling is used, and the flag in today's spelling.
pub fn arguments(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let Some(first) = arguments.get(1).and_then(|first| first.to_str()) else {
        return arguments;
    };
    let bare = first.trim_start_matches('-');
    let dashes = first.len() - bare.len();
    let name = bare.split_once('=').map_or(bare, |(name, _)| name);
    if (1..=2).contains(&dashes) && name == "version" {
        return arguments.drain(..1).chain([OsString::from("--version")]).collect();
    }
    if (1..=2).contains(&dashes) && FLAGS.contains(&name) {
        let spelled = OsString::from(format!("--{bare}"));
        arguments.splice(1..2, [OsString::from("run"), spelled]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(given: &[&str], expected: &[&str]) {
        let all = std::iter::once("apgar").chain(given.iter().copied()).map(OsString::from);
        let expected: Vec<OsString> =
            std::iter::once("apgar").chain(expected.iter().copied()).map(OsString::from).collect();
        assert_eq!(arguments(all), expected);
    }

    #[test]
    fn r_82_the_old_flags_in_any_spelling_mean_run() {
        check(&["--kubeconfig="], &["run", "--kubeconfig="]);
        check(&["-kubeconfig=/x"], &["run", "--kubeconfig=/x"]);
        check(&["-kubeconfig", "/x"], &["run", "--kubeconfig", "/x"]);
        check(&["--kubeconfig", "/x"], &["run", "--kubeconfig", "/x"]);
        check(&["-version"], &["--version"]);
        check(&["-version=true"], &["--version"]);
        check(&["--version"], &["--version"]);
    }

    #[test]
    fn todays_commands_are_left_alone() {
        check(&["run", "--kubeconfig", "/x"], &["run", "--kubeconfig", "/x"]);
        check(&["check", "-"], &["check", "-"]);
        check(&["---kubeconfig"], &["---kubeconfig"]);
        check(&[], &[]);
    }
}
