//! The closed lists of `supervision` section 2: each word once, for metrics, tables, log and API.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident => $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$case_doc])* #[serde(rename = $word)] $case),* }

        impl $name {
            /// Every one of the closed list.
            pub const ALL: &'static [Self] = &[$(Self::$case),*];

            /// The word in metrics, tables and the API.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$case => $word),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Why a start or a check died.
    Cause {
        /// The guest trapped, sent bad data over the boundary, or called the host too often.
        Trap => "trap",
        /// It called `exit` through WASI, with any code.
        Exit => "exit",
        /// A growth of its memory or tables was refused.
        Memory => "memory",
        /// An import of ours panicked: our bug, told as one.
        HostPanic => "host-panic",
        /// Accepted bytes could not be read back.
        Load => "load",
        /// Compiling failed, had no room, or took too long.
        Compile => "compile",
        /// It could not be linked or instantiated.
        Link => "link",
        /// The daemon ended during a start. Only the ledger says this.
        DaemonDied => "daemon-died",
        /// It used up its guest time, or its start took too long.
        Deadline => "deadline",
        /// It waited in an import for too long.
        ImportTimeout => "import-timeout",
        /// Several completed checks in a row were slow. Only the ledger says this.
        Slow => "slow",
        /// It was cut off while the host stood still or let it wait: not the guest's fault.
        HostStarved => "host-starved",
    }
}

words! {
    /// Where in the life of a generation it died.
    Stage {
        /// Reading or compiling.
        Load => "load",
        /// Making an instance, start functions included.
        Instantiate => "instantiate",
        /// In `describe`.
        Describe => "describe",
        /// In `configure`, at load.
        Configure => "configure",
        /// In the check of the synthetic node.
        SelfCheck => "self-check",
        /// In a check, with everything that happens in its store.
        Check => "check",
    }
}

words! {
    /// Why a file is not accepted. Nothing is retried until bytes or settings change.
    RefusalReason {
        /// The file's name is no plugin name.
        BadName => "bad-name",
        /// Not a regular file.
        NotAFile => "not-a-file",
        /// It cannot be examined or read.
        Unreadable => "unreadable",
        /// Its bytes kept changing.
        Unstable => "unstable",
        /// Above the file size limit.
        TooLarge => "too-large",
        /// Above the limit of plugins.
        TooMany => "too-many",
        /// No signature, and one is required.
        Unsigned => "unsigned",
        /// A signature that does not verify.
        BadSignature => "bad-signature",
        /// A signature of a key nobody trusts.
        UntrustedKey => "untrusted-key",
        /// Not a WebAssembly component, or not a valid one.
        NotAComponent => "not-a-component",
        /// It does not export a checker of a version that is served.
        WrongWorld => "wrong-world",
        /// It imports what no host of this version has.
        UnknownImport => "unknown-import",
        /// It imports what it was not granted.
        ImportNotGranted => "import-not-granted",
        /// It rejected its settings.
        SettingsRejected => "settings-rejected",
        /// Its bytes are gone.
        BytesUnavailable => "bytes-unavailable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_tables_and_json_are_the_same() {
        for cause in Cause::ALL {
            assert_eq!(serde_json::json!(cause), cause.as_str());
        }
        for stage in Stage::ALL {
            assert_eq!(serde_json::json!(stage), stage.as_str());
        }
        for reason in RefusalReason::ALL {
            assert_eq!(serde_json::json!(reason), reason.as_str());
        }
    }
}
