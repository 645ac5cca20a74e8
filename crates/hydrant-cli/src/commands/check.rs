//! `hydrant verify` and `hydrant repair`: each place that is wrong, on a line of its own.

use futures_util::StreamExt as _;

use crate::args::UrlArgs;
use crate::exit::{Exit, Outcome};
use crate::output::Output;
use crate::stores::Finding;
use crate::url::StoreUrl;

/// Checks, and changes nothing.
pub(crate) async fn verify(url: &StoreUrl, json: bool) -> Outcome {
    url.must_hold_a_log().await?;
    let mut findings = url.verify().await?;
    let mut output = Output::lock();
    let mut exit = Exit::Fine;
    while let Some(finding) = findings.next().await {
        let finding = finding?;
        if !finding.leftover {
            exit = Exit::Data;
        }
        show(&mut output, &finding, json)?;
        output.flush()?;
    }
    Ok(exit)
}

/// Mends what can be mended.
pub(crate) async fn repair(args: UrlArgs, json: bool) -> Outcome {
    let findings = args.url.repair().await?;
    let mut output = Output::lock();
    findings.iter().try_for_each(|finding| show(&mut output, finding, json))?;
    output.flush()?;
    Ok(if findings.is_empty() { Exit::Fine } else { Exit::Data })
}

fn show(output: &mut Output, finding: &Finding, json: bool) -> Outcome<()> {
    if json { output.json(finding) } else { output.text(finding) }
}
