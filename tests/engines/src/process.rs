//! Starting the children of a trial, and reading what they said once they ended.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Starts this program again with other arguments: `head`, the directory, `tail`.
pub fn start(head: &[&str], directory: &Path, tail: &[&str]) -> io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(head)
        .arg(directory)
        .args(tail)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// What a child said: a word, then its value, a line each.
#[derive(Debug, Default)]
pub struct Lines(Vec<(String, String)>);

impl Lines {
    /// From all of a child's output.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().map(split).collect())
    }

    /// Whether a word was said.
    pub fn has(&self, word: &str) -> bool {
        self.0.iter().any(|(w, _)| w == word)
    }

    /// The values of a word.
    pub fn all<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(w, _)| w == word).map(|(_, value)| value.as_str())
    }

    /// The numbers behind a word that was said once.
    pub fn numbers(&self, word: &str) -> Vec<u64> {
        self.all(word).flat_map(|v| v.split(' ')).filter_map(|n| n.parse().ok()).collect()
    }
}

fn split(line: &str) -> (String, String) {
    let (word, value) = line.split_once(' ').unwrap_or((line, ""));
    (word.to_owned(), value.to_owned())
}

/// How a child ended.
#[derive(Debug)]
pub struct Ended {
    /// What it said.
    pub lines: Lines,
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// It had to be killed because it did not end.
    pub hung: bool,
}

impl Ended {
    /// In a line, for the list of errors.
    pub fn summary(&self) -> String {
        let said: Vec<&str> = self.lines.all("error").chain(self.lines.all("stderr")).collect();
        format!("code {:?}{}: {}", self.code, if self.hung { ", hung" } else { "" }, said.join("; "))
    }
}

/// Waits for a child to end, and kills it when it takes too long. Its output must fit a pipe, 64 KiB.
pub fn run_to_end(mut child: Child, patience: Duration) -> io::Result<Ended> {
    let deadline = Instant::now() + patience;
    let mut hung = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            hung = true;
            child.kill()?;
            break child.wait()?;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let (mut out, mut err) = (String::new(), String::new());
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut out)?;
    }
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_string(&mut err)?;
    }
    let mut lines = Lines::parse(&out);
    if !err.is_empty() {
        lines.0.push(("stderr".into(), err.replace('\n', " ").chars().take(300).collect()));
    }
    Ok(Ended { lines, code: status.code(), hung })
}

/// A child that is given orders and answers each.
pub struct Conversation {
    child: Child,
    answers: Receiver<(String, String)>,
}

impl Conversation {
    /// Listens to a child.
    pub fn with(mut child: Child) -> io::Result<Self> {
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (said, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if said.send(split(&line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, answers })
    }

    /// The next line; `None` once the child has ended, an error when it keeps silent.
    pub fn hear(&self, patience: Duration) -> io::Result<Option<(String, String)>> {
        match self.answers.recv_timeout(patience) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Gives an order and hears the answer.
    pub fn ask(&mut self, order: &str, patience: Duration) -> io::Result<Option<(String, String)>> {
        let pipe = self.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        // A child that died does not take orders; that it is silent says so.
        let _ = pipe.write_all(format!("{order}\n").as_bytes());
        self.hear(patience)
    }

    /// SIGKILL; what it wrote to its standard error, shortened.
    pub fn kill(mut self) -> io::Result<String> {
        self.child.kill()?;
        self.child.wait()?;
        let mut err = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            pipe.read_to_string(&mut err)?;
        }
        Ok(err.replace('\n', " ").chars().take(300).collect())
    }
}
