//! Values that are sent when they differ from the last one.

use tokio::sync::watch;

/// Sends `value` unless the receivers have its equal already.
pub(crate) fn send_news<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|newest| {
        let is_news = *newest != value;
        if is_news {
            *newest = value;
        }
        is_news
    });
}
