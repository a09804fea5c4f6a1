//! Whether the site received what the demo sent: each file exactly once, with its caption and hash.
//!
//! It compares the site's own rows with what was made on this machine, and believes no state that the
//! daemon shows. A request that Chrome sent again by itself is no second post.

use super::plan::Expected;
use crate::cli::practice::Post;

/// Every difference, as a sentence. Empty: all is well.
pub fn compare(expected: &[Expected], posts: &[Post]) -> Vec<String> {
    let mut wrong = Vec::new();
    for item in expected {
        let what = format!("{} of {}", item.video.name(), item.profile);
        let mine: Vec<&Post> = posts.iter().filter(|post| is_of(post, item)).collect();
        match mine.as_slice() {
            [] => wrong.push(format!("{what}: the site did not receive it")),
            [post] => {
                if post.caption != item.caption {
                    wrong.push(format!("{what}: the caption is {:?}, not {:?}", post.caption, item.caption));
                }
                if post.bytes != item.video.bytes {
                    wrong.push(format!("{what}: {} bytes arrived, not {}", post.bytes, item.video.bytes));
                }
            }
            several => {
                let ids: Vec<&str> = several.iter().map(|post| post.id.as_str()).collect();
                wrong.push(format!("{what}: published {} times (posts {})", several.len(), ids.join(", ")));
            }
        }
    }
    for post in posts.iter().filter(|post| !expected.iter().any(|item| is_of(post, item))) {
        wrong.push(format!(
            "post {} of {} is of a file that was not sent for it: {} bytes, sha256 {}",
            post.id, post.profile, post.bytes, post.sha256
        ));
    }
    wrong
}

/// The post that an item became.
pub fn find<'a>(item: &Expected, posts: &'a [Post]) -> Option<&'a Post> {
    posts.iter().find(|post| is_of(post, item))
}

fn is_of(post: &Post, item: &Expected) -> bool {
    post.profile == item.profile && post.sha256 == item.video.sha256
}

#[cfg(test)]
mod tests {
    use super::{Expected, Post, compare};
    use crate::cli::demo::media::Video;
    use crate::model::Timestamp;

    fn expected() -> Vec<Expected> {
        let item = |profile, name: &str, caption| Expected {
            profile,
            caption,
            video: Video { path: name.into(), bytes: 3, sha256: name.to_owned() },
        };
        vec![item("anna", "a", "one"), item("anna", "b", "два 🌱"), item("boris", "a", "three")]
    }

    fn received(expected: &[Expected]) -> Vec<Post> {
        let rows = expected.iter().enumerate().map(|(number, item)| Post {
            id: number.to_string(),
            url: format!("http://127.0.0.1:1/p/{number}"),
            profile: item.profile.to_owned(),
            sha256: item.video.sha256.clone(),
            bytes: item.video.bytes,
            caption: item.caption.to_owned(),
            time: Timestamp::ZERO,
            nonce: number.to_string(),
            requests: 2,
        });
        rows.collect()
    }

    /// What `compare` says after `change`.
    fn after(change: impl FnOnce(&mut Vec<Post>)) -> String {
        let expected = expected();
        let mut posts = received(&expected);
        change(&mut posts);
        compare(&expected, &posts).join("; ")
    }

    #[test]
    fn all_is_well_in_any_order_and_with_requests_sent_again() {
        assert_eq!(after(|_| {}), "");
        assert_eq!(after(|posts| posts.reverse()), "");
    }

    #[test]
    fn every_way_to_be_wrong_is_said() {
        assert_eq!(after(|posts| drop(posts.pop())), "a of boris: the site did not receive it");
        assert_eq!(after(|posts| posts.push(posts[1].clone())), "b of anna: published 2 times (posts 1, 1)");
        assert_eq!(after(|posts| posts[0].caption.clear()), "a of anna: the caption is \"\", not \"one\"");
        assert_eq!(after(|posts| posts[0].bytes = 2), "a of anna: 2 bytes arrived, not 3");
        let swapped = after(|posts| posts[0].profile = "boris".to_owned());
        assert!(swapped.contains("a of anna: the site did not receive it"), "{swapped}");
        assert!(swapped.contains("a of boris: published 2 times"), "{swapped}");
        let damaged = after(|posts| posts[2].sha256 = "c".to_owned());
        assert!(damaged.contains("a file that was not sent for it"), "{damaged}");
    }

    #[test]
    fn two_captions_that_changed_places_are_two_mistakes() {
        let wrong = after(|posts| {
            let (one, other) = (posts[0].caption.clone(), posts[1].caption.clone());
            (posts[0].caption, posts[1].caption) = (other, one);
        });
        assert_eq!(wrong.matches("the caption is").count(), 2, "{wrong}");
    }
}
