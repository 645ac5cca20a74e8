//! What S3 and Kinesis have in common: where the service is, and as whom it is asked.
//!
//! A URL never has credentials: they come from the SDK's own chain (`AWS_ACCESS_KEY_ID` and the like,
//! `~/.aws`, a role of the machine).

use crate::options::{Kind, Options, text};

/// Where, and as whom; what is not said comes from the SDK's chain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aws {
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) role: Option<String>,
}

impl Aws {
    /// Adds their options to those of a store.
    pub(crate) fn options<O: Default + 'static>(
        options: Options<O>,
        aws: fn(&mut O) -> &mut Self,
    ) -> Options<O> {
        options
            .with("endpoint", endpoint().or("AWS"), "where a server of another make is", move |settings| {
                &mut aws(settings).endpoint
            })
            .with(
                "region",
                text("NAME").or("by the SDK's chain"),
                "the region that requests are signed for",
                move |settings| &mut aws(settings).region,
            )
            .with(
                "profile",
                text("NAME").or("by the SDK's chain"),
                "the profile in ~/.aws/config",
                move |settings| &mut aws(settings).profile,
            )
            .with(
                "role",
                text("ARN").or("none"),
                "the role to assume with the credentials found",
                move |settings| &mut aws(settings).role,
            )
    }
}

/// A URL without credentials, which would not be used, and be shown.
fn endpoint() -> Kind<String> {
    let read = |text: &str| {
        let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        match authority {
            None => Err("it must begin with http:// or https://".to_owned()),
            Some("") => Err("it names no host".to_owned()),
            Some(authority) if authority.contains('@') => {
                Err("it holds credentials; give them as the SDK takes them, for example AWS_ACCESS_KEY_ID"
                    .to_owned())
            }
            Some(_) => Ok(text.trim_end_matches('/').to_owned()),
        }
    };
    Kind::new("URL", read, Clone::clone)
}
