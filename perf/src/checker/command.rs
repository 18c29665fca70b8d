//! `perf check`: histories on disk, the database as it is or as it was dumped.

use super::database::{self, DatabaseEvent};
use super::history::{self, DATABASE_FILE};
use crate::failure::{Context, Failure, Outcome};
use crate::options::CheckOptions;
use crate::report;

pub(crate) fn run(options: &CheckOptions) -> Outcome {
    let folder = &options.history;
    history::files(folder).doing("the history")?;
    let mut dump: Vec<DatabaseEvent> = Vec::new();
    match &options.database {
        Some(url) => {
            let wanted = history::conversations(folder).doing("the history")?;
            database::dump(url, &wanted, |row| dump.push(row))?;
        }
        None => {
            let path = folder.join(DATABASE_FILE);
            if !path.is_file() {
                return Err(Failure::Usage(format!(
                    "{} is not there: give --database URL to compare with a database",
                    path.display()
                )));
            }
            history::read(&path, |row| dump.push(row)).doing("the dump")?;
        }
    }
    let verdict = super::check(folder, dump).doing("the history")?;
    report::print(&verdict, options.json)?;
    if verdict.ok {
        return Ok(());
    }
    let violations = verdict.violations.len();
    Err(Failure::Refused(format!("promises were broken; {violations} of the cases are listed")))
}
