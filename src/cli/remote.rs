//! A client of the daemon. Placeholder in this branch: the command room owns this file.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RemoteError(String);

pub struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    pub fn url(base: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(std::time::Duration::from_secs(30))
            .build()
            .context("cannot make an HTTP client")?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned() })
    }

    pub fn unix(path: &Path) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().unix_socket(path).build().context("cannot make an HTTP client")?;
        Ok(Self { http, base: "http://localhost".to_owned() })
    }

    pub async fn get(&self, path: &str) -> Result<Value, RemoteError> {
        self.send(self.http.get(format!("{}{path}", self.base))).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, RemoteError> {
        self.send(self.http.post(format!("{}{path}", self.base)).json(body)).await
    }

    pub async fn put_bytes(&self, path: &str, body: Vec<u8>) -> Result<Value, RemoteError> {
        let request = self.http.put(format!("{}{path}", self.base)).header("content-type", "application/json");
        self.send(request.body(body)).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, RemoteError> {
        let answer = request.send().await.map_err(|error| RemoteError(error.to_string()))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| RemoteError(error.to_string()))?;
        if status.is_success() {
            return serde_json::from_str(&text).map_err(|error| RemoteError(error.to_string()));
        }
        Err(RemoteError(format!("{status}: {text}")))
    }
}
