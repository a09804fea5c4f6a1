//! The pages of the practice site: one template, one style sheet, one script, all in the binary.
//!
//! Everything a visitor sent is escaped by the template engine; the pages ask nothing of any other
//! host, and their content security policy says so.

use minijinja::value::Serde;
use minijinja::{Environment, Value, context};

use super::board::Post;

pub const CSS: &str = include_str!("page/site.css");
pub const SCRIPT: &str = include_str!("page/composer.js");
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     media-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What a page shows.
pub enum View {
    Feed(Vec<Post>),
    /// The posts of one account, whose own page it is where it is signed in.
    Account {
        name: String,
        posts: Vec<Post>,
    },
    Post(Post),
    Login,
    Verification,
    RateLimit,
    Message {
        title: &'static str,
        text: String,
    },
}

/// What every page carries.
#[derive(Default)]
pub struct Frame {
    pub profile: Option<String>,
    pub cookie_banner: bool,
    pub rename_share: bool,
    /// The page's own switches as a query, for its upload.
    pub switches: String,
}

pub struct Pages(Environment<'static>);

impl Pages {
    pub fn new() -> Self {
        let mut environment = Environment::new();
        environment
            .add_template("page.html", include_str!("page/page.html"))
            .expect("the embedded template parses: every test that asks for a page renders it");
        Self(environment)
    }

    pub fn render(&self, frame: &Frame, view: &View) -> Result<String, minijinja::Error> {
        let (name, title) = match view {
            View::Feed(_) => ("feed", "Feed"),
            View::Post(_) => ("post", "Post"),
            View::Login => ("login", "Log in"),
            View::Verification => ("verification", "Verification"),
            View::RateLimit => ("rate_limit", "Too much"),
            View::Account { name, .. } => ("account", name.as_str()),
            View::Message { title, .. } => ("message", *title),
        };
        let shown = match view {
            View::Feed(posts) | View::Account { posts, .. } => Value::from(Serde(posts)),
            View::Post(post) => Value::from(Serde(post)),
            View::Message { text, .. } => Value::from(text.as_str()),
            View::Login | View::Verification | View::RateLimit => Value::UNDEFINED,
        };
        self.0.get_template("page.html")?.render(context! {
            view => name,
            title,
            shown,
            profile => frame.profile.clone(),
            cookie_banner => frame.cookie_banner,
            share_label => if frame.rename_share { "Publish now" } else { "Share" },
            switches => frame.switches.clone(),
        })
    }
}
