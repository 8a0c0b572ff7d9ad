//! The settings of what is transcoded, and from where it may come.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[cfg(feature = "transcode")]
use super::Config;

/// What the transcoder accepts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Transcode {
    /// Longest source in seconds.
    pub duration_s_max: u64,
    /// Largest source in bytes.
    pub input_bytes_max: u64,
    /// Largest source with a picture, in bytes.
    pub video_bytes_max: u64,
    /// Longest film in seconds.
    pub video_duration_s_max: u64,
    /// Most pixels of a source's picture, width times height.
    pub video_pixels_max: u64,
    /// What to do where this machine lacks a part of the sandbox: `best-effort` or `require`. Unset: `require`
    /// in production, else `best-effort`.
    pub sandbox: Option<Sandbox>,
}

impl Default for Transcode {
    fn default() -> Transcode {
        Transcode {
            duration_s_max: 10 * 3600,
            input_bytes_max: 8 << 30,
            video_bytes_max: 500 << 20,
            video_duration_s_max: 4 * 3600,
            video_pixels_max: 4096 * 2304,
            sandbox: None,
        }
    }
}

/// What to do where this machine lacks a part of the transcoder's sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// Transcode all the same and warn.
    BestEffort,
    /// Transcode nothing.
    Require,
}

/// Where sources given by URL may be read from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sources {
    /// Hosts: `name`, `*.name`, either with `:port` or `:*`. Empty: any in dev, none in production.
    pub allow_hosts: Vec<String>,
    /// Networks that are reached although they are private: `10.0.0.0/8`, `127.0.0.1`.
    pub allow_private: Vec<String>,
    /// Certificates, PEM, trusted beside the machine's own.
    pub ca_file: Option<PathBuf>,
    /// Seconds without a byte after which a download is tried again.
    pub idle_timeout_s: u64,
}

impl Default for Sources {
    fn default() -> Sources {
        Sources { allow_hosts: vec![], allow_private: vec![], ca_file: None, idle_timeout_s: 30 }
    }
}

#[cfg(feature = "transcode")]
impl Config {
    /// What is wrong with the settings about sources.
    pub(super) fn source_problems(&self) -> Vec<String> {
        use crate::transcode::{HostRule, Network};
        let hosts = self.sources.allow_hosts.iter().filter_map(|text| text.parse::<HostRule>().err());
        let networks = self.sources.allow_private.iter().filter_map(|text| text.parse::<Network>().err());
        let hosts = hosts.map(|wrong| format!("sources.allow_hosts: {}", wrong.chain()));
        hosts.chain(networks.map(|wrong| format!("sources.allow_private: {}", wrong.chain()))).collect()
    }
}
