//! What the environment says, with the variables that other programs of the hub know.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::HubError;

/// Where the hub is, where files go, and how patient to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Base URL without a slash at its end.
    pub endpoint: String,
    /// The folder that holds `models--OWNER--NAME`.
    pub cache: PathBuf,
    /// Sent to the endpoint and to nobody else.
    pub token: Option<String>,
    /// Never ask the hub.
    pub offline: bool,
    /// Certificates to trust instead of the built-in ones, PEM.
    pub certificates: Option<PathBuf>,
    /// How patient to be.
    pub patience: Patience,
}

/// Time limits and attempts.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// Longest time without a byte.
    pub stall: Duration,
    /// Attempts in a row that bring nothing.
    pub attempts: u32,
    /// Wait after the first failure; doubled after each further one.
    pub first_wait: Duration,
    /// Longest wait, also where the hub asks for more.
    pub longest_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            stall: Duration::from_secs(60),
            attempts: 6,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(300),
        }
    }
}

impl Settings {
    /// Reads `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `HOME`, `HF_TOKEN`, `HF_TOKEN_PATH` (and the token
    /// file in `HF_HOME`), `HF_HUB_OFFLINE`, `HF_HUB_DOWNLOAD_TIMEOUT` and `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// A value that cannot be used.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// As [`Self::from_env`], with any source of variables. Empty ones count as absent.
    ///
    /// # Errors
    /// A value that cannot be used.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let var = |name: &str| var(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let user = var("HOME").or_else(|| var("USERPROFILE")).map_or_else(|| PathBuf::from("."), PathBuf::from);
        let path = |text: String| match text.strip_prefix("~/") {
            Some(rest) => user.join(rest),
            None => PathBuf::from(text),
        };
        let home = match (var("HF_HOME"), var("XDG_CACHE_HOME")) {
            (Some(home), _) => path(home),
            (None, Some(cache)) => path(cache).join("huggingface"),
            (None, None) => user.join(".cache/huggingface"),
        };
        let cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE")).map_or_else(|| home.join("hub"), path);
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !(endpoint.starts_with("https://") || endpoint.starts_with("http://")) {
            let why = "expected a URL that starts with https:// (or http://)".to_owned();
            return Err(HubError::Setting { name: "HF_ENDPOINT", found: endpoint, why });
        }
        let token_file = var("HF_TOKEN_PATH").map_or_else(|| home.join("token"), path);
        let token = var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN")).or_else(|| token_in(&token_file));
        if let Some(token) = &token
            && !token.bytes().all(|b| b.is_ascii_graphic())
        {
            let why = "a token has only letters, digits and signs".to_owned();
            return Err(HubError::Setting { name: "HF_TOKEN", found: "(hidden)".to_owned(), why });
        }
        let mut patience = Patience::default();
        if let Some(found) = var("HF_HUB_DOWNLOAD_TIMEOUT") {
            patience.stall = match found.parse::<u64>() {
                Ok(seconds) if (1..=86_400).contains(&seconds) => Duration::from_secs(seconds),
                _ => {
                    let why = "expected seconds, from 1 to 86400".to_owned();
                    return Err(HubError::Setting { name: "HF_HUB_DOWNLOAD_TIMEOUT", found, why });
                }
            };
        }
        let yes = |text: String| matches!(text.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        let offline = var("HF_HUB_OFFLINE").is_some_and(yes);
        Ok(Self { endpoint, cache, token, offline, certificates: var("SSL_CERT_FILE").map(path), patience })
    }
}

/// The token that `hf auth login` left.
fn token_in(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let token = text.trim();
    (!token.is_empty()).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(vars: &[(&str, &str)]) -> Result<Settings, HubError> {
        Settings::from_vars(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_cache_is_where_others_look() {
        let cache = |vars: &[(&str, &str)]| settings(vars).unwrap().cache;
        assert_eq!(cache(&[("HOME", "/u")]), Path::new("/u/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("HF_HOME", "~/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/u/h/hub"));
        assert_eq!(cache(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
    }

    #[test]
    fn values_are_checked() {
        assert_eq!(settings(&[("HF_ENDPOINT", "http://mirror:8080/")]).unwrap().endpoint, "http://mirror:8080");
        assert!(settings(&[("HF_ENDPOINT", "mirror")]).unwrap_err().to_string().contains("HF_ENDPOINT"));
        assert!(settings(&[("HF_TOKEN", "a b")]).unwrap_err().to_string().contains("HF_TOKEN"));
        assert!(settings(&[("HF_HUB_DOWNLOAD_TIMEOUT", "soon")]).unwrap_err().to_string().contains("soon"));
        assert!(settings(&[("HF_HUB_OFFLINE", "1")]).unwrap().offline);
        assert!(!settings(&[("HF_HUB_OFFLINE", "0")]).unwrap().offline);
        assert!(!settings(&[("HF_HUB_OFFLINE", "")]).unwrap().offline);
    }

    #[test]
    fn the_token_comes_from_the_environment_or_a_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).unwrap().token.as_deref(), Some("hf_file"));
        assert_eq!(settings(&[("HF_HOME", home), ("HF_TOKEN", "hf_env")]).unwrap().token.as_deref(), Some("hf_env"));
        assert_eq!(settings(&[("HF_HOME", "/nowhere")]).unwrap().token, None);
    }
}
