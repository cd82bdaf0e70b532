//! An error with its causes, in one line.

use std::error::Error;
use std::iter::successors;

/// Formats an error and its causes, without a cause that the text before it already ends with.
pub(crate) fn causes(error: &(dyn Error + 'static)) -> String {
    successors(Some(error), |error| (*error).source()).fold(String::new(), |text, error| {
        let cause = error.to_string();
        match text.as_str() {
            "" => cause,
            text if text.ends_with(&cause) => text.to_owned(),
            text => format!("{text}: {cause}"),
        }
    })
}
