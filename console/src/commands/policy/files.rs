//! A policy's files: read from where they lie, and the mistakes in them placed there again.

use crate::errors::ConsoleError;
use crate::output::text::printable;
use jiff::Timestamp;
use portolan_common::document::{Flaw, Mistakes};
use portolan_policy::{Policy, PolicyFile};
use portolan_proto::v1;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// All files together, in bytes: what one request has room for.
const MAX_BYTES: u64 = 3 * 1024 * 1024;
/// The most files of one policy.
const MAX_FILES: usize = 1000;
/// What stdin is called when it becomes a file.
const STDIN_NAME: &str = "policy.toml";

/// The files of one policy.
#[derive(Debug, Default)]
pub struct Files {
    /// What the policy calls them: their names without directories.
    files: Vec<PolicyFile>,
    /// Where each lies, for people.
    places: Vec<String>,
}

impl Files {
    /// Reads files, the `*.toml` of directories, and `-` for stdin.
    ///
    /// # Errors
    /// What cannot be read, two files of one name, more than there is room for.
    pub fn load(paths: &[PathBuf]) -> Result<Self, ConsoleError> {
        let mut all = Self::default();
        let mut room = MAX_BYTES;
        for path in paths {
            if path.as_os_str() == "-" {
                all.add(STDIN_NAME, "stdin", read(&mut io::stdin().lock(), path, &mut room)?)?;
            } else if path.is_dir() {
                for path in toml_files(path)? {
                    all.add_file(&path, &mut room)?;
                }
            } else {
                all.add_file(path, &mut room)?;
            }
        }
        Ok(all)
    }

    /// As a server has them.
    pub fn from_wire(files: Vec<v1::PolicyFile>) -> Self {
        Self {
            places: files.iter().map(|file| file.name.clone()).collect(),
            files: files.into_iter().map(|file| PolicyFile { name: file.name, text: file.text }).collect(),
        }
    }

    /// For a server.
    pub fn to_wire(&self) -> Vec<v1::PolicyFile> {
        let file = |file: &PolicyFile| v1::PolicyFile { name: file.name.clone(), text: file.text.clone() };
        self.files.iter().map(file).collect()
    }

    fn add_file(&mut self, path: &Path, room: &mut u64) -> Result<(), ConsoleError> {
        let failed = |source| ConsoleError::File { action: "read the policy", path: path.to_owned(), source };
        let text = read(&mut File::open(path).map_err(failed)?, path, room)?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.add(&name, &path.display().to_string(), text)
    }

    fn add(&mut self, name: &str, place: &str, text: String) -> Result<(), ConsoleError> {
        if let Some(same) = self.files.iter().position(|file| file.name == name) {
            return Err(ConsoleError::usage(
                format!(
                    "{} and {} would both be called {}",
                    printable(&self.places[same]),
                    printable(place),
                    printable(name)
                ),
                "within a policy every file has a name of its own",
            ));
        }
        if self.files.len() >= MAX_FILES {
            return Err(ConsoleError::usage(
                format!("these are more than {MAX_FILES} files"),
                "put several into one",
            ));
        }
        self.files.push(PolicyFile { name: name.to_owned(), text });
        self.places.push(place.to_owned());
        Ok(())
    }

    /// What they say, or every mistake in them.
    ///
    /// # Errors
    /// The mistakes, file by file, as the files are called where they lie.
    pub fn read(&self, now: Timestamp) -> Result<Policy, Vec<Mistakes>> {
        portolan_policy::read(&self.files, now).map_err(|mut mistakes| {
            for file in &mut mistakes {
                if let Some(at) = self.files.iter().position(|known| known.name == file.file_name) {
                    file.file_name.clone_from(&self.places[at]);
                }
            }
            mistakes
        })
    }

    /// The mistakes that a server found, file by file.
    pub fn placed(&self, report: &v1::PolicyReport) -> Vec<Mistakes> {
        let mut all: Vec<Mistakes> = Vec::new();
        for mistake in &report.mistakes {
            let at = self.files.iter().position(|file| file.name == mistake.file);
            let (place, text) =
                at.map_or((mistake.file.as_str(), ""), |at| (&self.places[at], &self.files[at].text));
            let index = all.iter().position(|file| file.file_name == place).unwrap_or_else(|| {
                all.push(Mistakes::new(place, text));
                all.len() - 1
            });
            let hint = Some(printable(&mistake.hint).into_owned()).filter(|hint| !hint.is_empty());
            let flaw = Flaw { message: printable(&mistake.message).into_owned(), hint, within: None };
            all[index].add(span(text, mistake), flaw);
        }
        if let Some(last) = all.last_mut() {
            last.omitted += usize::try_from(report.mistakes_omitted).unwrap_or(usize::MAX);
        }
        all
    }
}

/// From a line, a column and a length in characters to bytes of the file.
fn span(text: &str, mistake: &v1::PolicyMistake) -> std::ops::Range<usize> {
    let index = |line: u32| usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
    let line_start = text.split_inclusive('\n').take(index(mistake.line)).map(str::len).sum::<usize>();
    let offset = |from: usize, characters: usize| {
        let rest = text.get(from..).unwrap_or_default();
        from + rest.char_indices().nth(characters).map_or(rest.len(), |(at, _)| at)
    };
    let start = offset(line_start, index(mistake.column));
    start..offset(start, usize::try_from(mistake.length).unwrap_or(usize::MAX))
}

/// The files of a directory, not of those in it, ascending.
fn toml_files(dir: &Path) -> Result<Vec<PathBuf>, ConsoleError> {
    let failed = |source| ConsoleError::File { action: "read the directory", path: dir.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.extension().is_some_and(|extension| extension == "toml") && !is_hidden && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "there is no *.toml in it")));
    }
    files.sort();
    Ok(files)
}

/// Text, as much as there is room for.
fn read(source: &mut impl Read, path: &Path, room: &mut u64) -> Result<String, ConsoleError> {
    let failed = |source| ConsoleError::File { action: "read the policy", path: path.to_owned(), source };
    let mut text = String::new();
    source.take(*room + 1).read_to_string(&mut text).map_err(failed)?;
    match room.checked_sub(text.len() as u64) {
        Some(rest) => {
            *room = rest;
            Ok(text)
        }
        None => {
            let too_large = format!("the files are larger than {} MiB together", MAX_BYTES >> 20);
            Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, too_large)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_directory_stands_for_its_toml_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", ".a.toml.swp", ".hidden.toml", "readme.md", "deeper/c.toml"] {
            write(dir.path(), name, name);
        }
        let files = Files::load(&[dir.path().to_owned()]).unwrap();
        let names: Vec<_> = files.to_wire().into_iter().map(|file| (file.name, file.text)).collect();
        assert_eq!(names, [("a.toml", "a.toml"), ("b.toml", "b.toml")].map(|(a, b)| (a.into(), b.into())));
        let empty = Files::load(&[dir.path().join("deeper/nothing")]).unwrap_err();
        assert!(empty.to_string().starts_with("cannot read the policy "), "{empty}");
        fs::create_dir(dir.path().join("empty")).unwrap();
        let empty = Files::load(&[dir.path().join("empty")]).unwrap_err();
        assert!(empty.to_string().ends_with("there is no *.toml in it"), "{empty}");
    }

    #[test]
    fn names_are_the_policys_own() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (write(dir.path(), "x/shop.toml", ""), write(dir.path(), "y/shop.toml", ""));
        let error = Files::load(&[one, two]).unwrap_err();
        assert!(error.to_string().ends_with("would both be called shop.toml"), "{error}");
        assert_eq!(error.exit(), crate::errors::Exit::Usage);
    }

    #[test]
    fn too_much_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let half = "#".repeat(MAX_BYTES as usize / 2);
        let (one, two) = (write(dir.path(), "a.toml", &half), write(dir.path(), "b.toml", &half));
        assert!(Files::load(&[one.clone(), two.clone()]).is_ok());
        let error = Files::load(&[one, two, write(dir.path(), "c.toml", "#")]).unwrap_err();
        assert!(error.to_string().ends_with("larger than 3 MiB together"), "{error}");
    }

    #[test]
    fn a_servers_mistakes_are_placed_where_the_file_lies() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "shop.toml", "version = 1\n# ä\nnäme = \"shöp\" # x\n");
        let files = Files::load(std::slice::from_ref(&path)).unwrap();
        let mistake = |file: &str, line, column, length| v1::PolicyMistake {
            file: file.into(),
            line,
            column,
            length,
            message: "no\u{1b}pe".into(),
            hint: "say shop".into(),
            text: String::new(),
        };
        let report = v1::PolicyReport {
            mistakes: vec![
                mistake("shop.toml", 3, 9, 4),
                mistake("gone.toml", 9, 9, 9),
                mistake("shop.toml", 99, 1, 1),
            ],
            mistakes_omitted: 7,
            ..Default::default()
        };
        let placed = files.placed(&report);
        assert_eq!((placed.len(), placed[0].file_name.clone()), (2, path.display().to_string()));
        let text = placed[0].to_string();
        assert!(text.contains("3 | näme = \"shöp\" # x\n  |         ^^^^\n"), "{text}");
        assert!(text.contains("error: no\\u{1b}pe\n") && text.contains("= hint: say shop"), "{text}");
        assert_eq!(placed[1].omitted, 7);
    }

    #[test]
    fn local_mistakes_name_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "shop.toml", "version = 2\n");
        let mistakes =
            Files::load(std::slice::from_ref(&path)).unwrap().read(Timestamp::UNIX_EPOCH).unwrap_err();
        assert_eq!(mistakes[0].file_name, path.display().to_string());
    }
}
