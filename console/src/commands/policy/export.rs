//! `portolan policy export`: the files of a version, written into a directory.

use crate::cli::{ExportArgs, Global};
use crate::document::policy::ExportDocument;
use crate::errors::{ConsoleError, Exit};
use crate::output::structured::write_one;
use crate::output::text::printable;
use crate::output::{Format, print};
use portolan_proto::v1;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Component, Path};

/// Does what was typed.
pub fn run(args: &ExportArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "policy export")?;
    let (version, files) = super::fetch(args.which.version, global)?;
    write(&files, &args.dir, args.force)?;
    let document = ExportDocument {
        version: version.version,
        directory: args.dir.display().to_string(),
        files: files.iter().map(|file| file.name.as_str()).collect(),
    };
    print(|out| match format {
        Format::Table => writeln!(
            out,
            "Version {} is written to {}: {}",
            document.version,
            printable(&document.directory),
            printable(&document.files.join(", "))
        ),
        format => write_one(out, format, &document),
    })?;
    Ok(Exit::Done)
}

/// All of them, or none if one may not be written.
fn write(files: &[v1::PolicyFile], dir: &Path, force: bool) -> Result<(), ConsoleError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| ConsoleError::File { action, path, source }
    };
    for file in files {
        let path = dir.join(&file.name);
        // The names are another's: none of them leads out of the directory.
        if !is_plain(&file.name) {
            let wrong = io::Error::new(io::ErrorKind::InvalidFilename, "that is no plain file name");
            return Err(failed("write the file that the policy calls", Path::new(&file.name))(wrong));
        }
        if !force && path.symlink_metadata().is_ok() {
            let there =
                io::Error::new(io::ErrorKind::AlreadyExists, "it is there already; --force overwrites it");
            return Err(failed("write", &path)(there));
        }
    }
    fs::create_dir_all(dir).map_err(failed("create the directory", dir))?;
    for file in files {
        let path = dir.join(&file.name);
        fs::write(&path, &file.text).map_err(failed("write", &path))?;
    }
    Ok(())
}

fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(only)), None) if only == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> v1::PolicyFile {
        v1::PolicyFile { name: name.into(), text: text.into() }
    }

    #[test]
    fn nothing_is_overwritten_unless_forced() {
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("policy");
        write(&[file("a.toml", "1"), file("b.toml", "2")], &into, false).unwrap();
        let error = write(&[file("c.toml", "3"), file("b.toml", "4")], &into, false).unwrap_err();
        assert!(error.to_string().ends_with("b.toml: it is there already; --force overwrites it"), "{error}");
        assert!(!into.join("c.toml").exists(), "all or nothing");
        write(&[file("c.toml", "3"), file("b.toml", "4")], &into, true).unwrap();
        assert_eq!(fs::read_to_string(into.join("b.toml")).unwrap(), "4");
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["../x.toml", "/etc/x.toml", "a/b.toml", "..", ".", "", "a/", "./a"] {
            let error = write(&[file(name, "")], &dir.path().join("policy"), true).unwrap_err();
            assert!(error.to_string().ends_with("no plain file name"), "{name}: {error}");
        }
        assert!(!dir.path().join("policy").exists());
    }
}
