//! Where things are when nobody says: the file, the state directory, the unix socket.
//!
//! Pure: the environment enters as an argument. For root the places are the system's; for a user those of
//! the XDG base directory specification, which tells to ignore a variable that is no absolute path.
//! Invariant: two daemons with two state directories never share a default socket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) const SYSTEM_FILE: &str = "/etc/cove/cove.toml";
pub(super) const ROOT_STATE_DIR: &str = "/var/lib/cove";
const ROOT_SOCKET: &str = "/run/cove/cove.sock";
pub(super) const SOCKET_NAME: &str = "cove.sock";
pub(super) const SNAPSHOTS_NAME: &str = "snapshots";

/// The process' environment as far as it decides about places.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    pub env: &'a BTreeMap<String, String>,
    pub is_root: bool,
}

impl Places<'_> {
    fn absolute(&self, variable: &str) -> Option<PathBuf> {
        // The mark stands for what is not UTF-8: that folder's real name is not known here.
        let named = self.env.get(variable).filter(|path| !path.contains('\u{fffd}'));
        named.map(PathBuf::from).filter(|path| path.is_absolute())
    }

    fn in_home(&self, folder: &str) -> Option<PathBuf> {
        self.absolute("HOME").map(|home| home.join(folder))
    }

    /// The user's own file; root has none beside the system's.
    pub fn user_file(&self) -> Option<PathBuf> {
        if self.is_root {
            return None;
        }
        let base = self.absolute("XDG_CONFIG_HOME").or_else(|| self.in_home(".config"))?;
        Some(base.join("cove/cove.toml"))
    }

    /// `None`: the environment names no home.
    pub fn state_dir(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some(PathBuf::from(ROOT_STATE_DIR));
        }
        let base = self.absolute("XDG_STATE_HOME").or_else(|| self.in_home(".local/state"))?;
        Some(base.join("cove"))
    }

    /// A state directory that somebody chose has its socket inside.
    pub fn socket(&self, state_dir: &Path, chosen: bool) -> PathBuf {
        if chosen {
            return state_dir.join(SOCKET_NAME);
        }
        if self.is_root {
            return PathBuf::from(ROOT_SOCKET);
        }
        self.absolute("XDG_RUNTIME_DIR").unwrap_or_else(|| state_dir.to_owned()).join(SOCKET_NAME)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use super::Places;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn root_has_the_systems_places_whatever_the_environment_says() {
        let env = env(&[("HOME", "/root"), ("XDG_STATE_HOME", "/x"), ("XDG_RUNTIME_DIR", "/y")]);
        let places = Places { env: &env, is_root: true };
        let state = places.state_dir().unwrap();
        assert_eq!(state, Path::new("/var/lib/cove"));
        assert_eq!(places.socket(&state, false), Path::new("/run/cove/cove.sock"));
        assert_eq!(places.user_file(), None);
    }

    #[test]
    fn a_user_has_xdg_places_and_relative_variables_are_ignored() {
        let full =
            env(&[("HOME", "/home/a"), ("XDG_STATE_HOME", "/s"), ("XDG_CONFIG_HOME", "/c"), ("XDG_RUNTIME_DIR", "/r")]);
        let places = Places { env: &full, is_root: false };
        assert_eq!(places.state_dir(), Some(PathBuf::from("/s/cove")));
        assert_eq!(places.socket(Path::new("/s/cove"), false), Path::new("/r/cove.sock"));
        assert_eq!(places.user_file(), Some(PathBuf::from("/c/cove/cove.toml")));

        let poor = env(&[("HOME", "/home/a"), ("XDG_STATE_HOME", "s"), ("XDG_RUNTIME_DIR", "")]);
        let places = Places { env: &poor, is_root: false };
        let state = places.state_dir().unwrap();
        assert_eq!(state, Path::new("/home/a/.local/state/cove"));
        assert_eq!(places.socket(&state, false), state.join("cove.sock"));
        assert_eq!(places.user_file(), Some(PathBuf::from("/home/a/.config/cove/cove.toml")));

        let empty = BTreeMap::new();
        assert_eq!(Places { env: &empty, is_root: false }.state_dir(), None);
    }

    #[test]
    fn a_chosen_state_directory_has_its_own_socket() {
        let env = env(&[("XDG_RUNTIME_DIR", "/r")]);
        for is_root in [true, false] {
            assert_eq!(
                Places { env: &env, is_root }.socket(Path::new("/srv/two"), true),
                Path::new("/srv/two/cove.sock")
            );
        }
    }
}
