//! `verve report`.

use anyhow::Result;

use crate::args::ReportArgs;
use crate::output;

pub fn run(args: ReportArgs) -> Result<()> {
    let out = args.out.unwrap_or_else(|| args.run.join("report.html"));
    let warnings = verve_train::report::write(&args.run, &out)?;
    for warning in warnings {
        eprintln!("verve: {warning}");
    }
    output::line(format!("wrote {}; open it in a browser", out.display()))
}
