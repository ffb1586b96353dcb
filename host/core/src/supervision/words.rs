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

words! {
    /// Where the bytes of a plugin come from.
    Source {
        /// Built into the daemon.
        Bundled => "bundled",
        /// A file of the plugin directory.
        Directory => "directory",
    }
}

words! {
    /// The word for a plugin as a whole.
    PluginState {
        /// Switched off.
        Stopped => "Stopped",
        /// It answers, whatever a newer file does.
        Running => "Running",
        /// It is being started, and nothing answers.
        Loading => "Loading",
        /// It died; the next attempt is at a known time.
        Crashed => "Crashed",
        /// It died too often; time does not help.
        Failed => "Failed",
        /// It is not acceptable, and nothing answers.
        Refused => "Refused",
    }
}

words! {
    /// The state of a track (`supervision` 2.1).
    TrackState {
        /// It is being started.
        Loading => "Loading",
        /// It is loaded, and answers or is the fallback.
        Serving => "Serving",
        /// It is not acceptable.
        Refused => "Refused",
        /// It is started at a known time.
        Waiting => "Waiting",
        /// Time does not start it again.
        Saturated => "Saturated",
    }
}

words! {
    /// What became of a death in the ledger.
    Booked {
        /// Held against the generation.
        Crash => "crash",
        /// Held against one node's pair.
        Pair => "pair",
        /// The host's fault: held against nobody.
        Starved => "starved",
        /// Of a start that is over: already counted, or meant to end.
        Merged => "merged",
    }
}

words! {
    /// What a newer file or configuration came to (`supervision` 6.4).
    Reload {
        /// Another generation answers.
        Swapped => "swapped",
        /// It is not acceptable.
        Refused => "refused",
        /// It died before it answered, or when nothing was there to fall back on.
        Crashed => "crashed",
        /// It died on probation; the one before answers again.
        RolledBack => "rolled-back",
        /// The file was written anew with the bytes it had.
        Unchanged => "unchanged",
    }
}

words! {
    /// The kinds of events (`supervision` 6.5).
    EventKind {
        /// The first generation of a plugin serves.
        PluginLoaded => "PluginLoaded",
        /// Another generation answers.
        PluginSwapped => "PluginSwapped",
        /// A crashed generation serves again.
        PluginRestarted => "PluginRestarted",
        /// A person cleared its ledger.
        PluginReset => "PluginReset",
        /// It served long enough: its crashes are forgotten.
        PluginForgiven => "PluginForgiven",
        /// It was switched off.
        PluginStopped => "PluginStopped",
        /// There is no plugin of that name any more.
        PluginRemoved => "PluginRemoved",
        /// A node is judged again.
        NodeReleased => "NodeReleased",
        /// The directory is as it should be again.
        DirectoryBack => "DirectoryBack",
        /// A crash with a next attempt.
        PluginCrashed => "PluginCrashed",
        /// A crash without one.
        PluginSaturated => "PluginSaturated",
        /// A file or its configuration is not acceptable.
        PluginRefused => "PluginRefused",
        /// A newer generation crashed on probation; the one before answers.
        RolledBack => "RolledBack",
        /// A check died; the node is not asked about until something changes.
        NodeQuarantined => "NodeQuarantined",
        /// The directory cannot be listed.
        DirectoryLost => "DirectoryLost",
        /// The directory is suddenly empty.
        DirectoryEmptied => "DirectoryEmptied",
        /// A start or check was cut off by the host's own fault.
        HostStarved => "HostStarved",
        /// Our own machinery failed.
        EngineFault => "EngineFault",
        /// What was done is not on disk.
        StoreUnavailable => "StoreUnavailable",
        /// A stored record could not be read.
        StoreRecordDropped => "StoreRecordDropped",
    }
}

impl EventKind {
    /// True for what an operator should look at.
    #[must_use]
    pub fn is_warning(self) -> bool {
        match self {
            Self::PluginLoaded
            | Self::PluginSwapped
            | Self::PluginRestarted
            | Self::PluginReset
            | Self::PluginForgiven
            | Self::PluginStopped
            | Self::PluginRemoved
            | Self::NodeReleased
            | Self::DirectoryBack => false,
            Self::PluginCrashed
            | Self::PluginSaturated
            | Self::PluginRefused
            | Self::RolledBack
            | Self::NodeQuarantined
            | Self::DirectoryLost
            | Self::DirectoryEmptied
            | Self::HostStarved
            | Self::EngineFault
            | Self::StoreUnavailable
            | Self::StoreRecordDropped => true,
        }
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
