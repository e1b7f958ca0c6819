//! `portolan completions` and `portolan man`: made from the definition of the command line.

use crate::cli::{Cli, Shell};
use crate::errors::{ConsoleError, Exit};
use crate::output::print;
use clap::CommandFactory as _;
use std::io::Write as _;
use std::path::Path;

/// Prints the script.
pub fn completions(shell: Shell) -> Result<Exit, ConsoleError> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // Into memory first: the generator takes a broken pipe for a reason to panic.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "portolan", &mut script);
    print(|out| out.write_all(&script))?;
    Ok(Exit::Done)
}

/// Writes a page for every command.
pub fn man(dir: &Path) -> Result<Exit, ConsoleError> {
    let failed = |action| move |source| ConsoleError::File { action, path: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(failed("create the directory"))?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed("write the manual pages into"))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_every_command() {
        let dir = tempfile::tempdir().unwrap();
        man(&dir.path().join("man1")).unwrap();
        for page in ["portolan.1", "portolan-scan.1", "portolan-satellite-add.1"] {
            assert!(dir.path().join("man1").join(page).is_file(), "{page}");
        }
    }
}
