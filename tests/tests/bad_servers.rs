//! What can be wrong with a server's machine: each is told with its path or address, ends with code 1, and loses nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_tests::deployment::{Deployment, PORT};
use portolan_tests::in_lab;
use portolan_tests::lab::{Lab, Program, run_ok};
use portolan_tests::scene::OpenScene;
use portolan_tests::wait::{SOON, stays};

/// Every file below a directory with its content.
fn files_below(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn mounted_read_only(lab: &Lab, name: &str) -> PathBuf {
    let directory = lab.directory(name);
    run_ok(Program::new("mount").args(["-t", "tmpfs", "-o", "ro", "tmpfs"]).arg(&directory));
    directory
}

#[test]
fn a_second_init_overwrites_nothing() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        deployment.stop().ok();
        let (before, admin) =
            (files_below(&deployment.data_dir()), fs::read(deployment.admin_file()).unwrap());
        deployment.init().code_is(1).says(&["already"]);
        assert!(before == files_below(&deployment.data_dir()), "the second init changed files");
        assert_eq!(admin, fs::read(deployment.admin_file()).unwrap());
        deployment.start();
    });
}

#[test]
fn what_init_makes_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    in_lab!(|lab| {
        let deployment = Deployment::new(lab);
        deployment.init().ok();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&deployment.admin_file()), 0o600);
        let mut open = vec![deployment.data_dir()];
        while let Some(directory) = open.pop() {
            assert_eq!(mode(&directory), 0o700, "{}", directory.display());
            for path in fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
                match path.is_dir() {
                    true => open.push(path),
                    false => assert_eq!(mode(&path), 0o600, "{}", path.display()),
                }
            }
        }
        for name in ["ca/issuing.crt", "ca/issuing.key"] {
            assert!(deployment.data_dir().join(name).exists(), "{name}");
        }
    });
}

#[test]
fn a_server_that_was_never_initialised_says_how_to() {
    in_lab!(|lab| {
        let deployment = Deployment::new(lab);
        let refused = deployment.run_command().limit(SOON).run();
        refused.code_is(1).says(&["init"]).says(&[deployment.data_dir().to_str().unwrap()]);
    });
}

#[test]
fn a_second_server_on_the_same_data_is_refused_and_the_first_goes_on() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let second = deployment.server_program().args(["run", "--listen", "127.0.0.1:7999", "--data-dir"]);
        let second = second.arg(deployment.data_dir()).limit(SOON).run();
        second
            .code_is(1)
            .says(&["another", "already", "in use"])
            .says(&[deployment.data_dir().to_str().unwrap()]);
        deployment.console(&["status"]).ok();
    });
}

#[test]
fn a_port_in_use_is_named() {
    in_lab!(|lab| {
        let deployment = Deployment::new(lab);
        deployment.init().ok();
        let squatter = deployment.server_host().listen(&[PORT]);
        let refused = deployment.run_command().limit(SOON).run();
        refused.code_is(1).says(&[&PORT.to_string()]).says(&["in use"]);
        drop(squatter);
        deployment.start();
    });
}

#[test]
fn an_unwritable_data_directory_is_named() {
    in_lab!(|lab| {
        let deployment = Deployment::new(lab);
        let locked = mounted_read_only(lab, "locked").join("data");
        let init = deployment
            .server_program()
            .args(["init", "--name", "10.99.1.10:7443", "--data-dir"])
            .arg(&locked);
        let refused = init.arg("--admin-out").arg(deployment.admin_file()).run();
        refused.code_is(1).says(&[locked.to_str().unwrap()]).says(&["read-only", "permission"]);
        assert!(!deployment.admin_file().exists(), "a credential for a deployment that does not exist");
    });
}

#[test]
fn a_data_directory_that_became_read_only_is_named_at_start() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        deployment.stop().ok();
        let data = deployment.data_dir();
        run_ok(Program::new("mount").args(["--bind"]).arg(&data).arg(&data));
        run_ok(Program::new("mount").args(["-o", "remount,bind,ro"]).arg(&data));
        let refused = deployment.run_command().limit(SOON).run();
        refused.code_is(1).says(&[data.to_str().unwrap()]).says(&["read-only", "permission"]);
        run_ok(Program::new("umount").arg(&data));
        deployment.start();
    });
}

#[test]
fn a_corrupt_store_is_named_and_left_as_it_is() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        scene
            .deployment
            .scan(&[&scene.shop.v4().to_string(), "-p", "1-100", "--from", "office-1"])
            .code_is(0);
        scene.deployment.stop().ok();
        let store = scene.deployment.data_dir().join("store");
        for (path, mut content) in files_below(&store) {
            let length = content.len();
            // Its whole middle, so that no checksum can miss it.
            content[length / 8..].fill(0xa5);
            fs::write(path, content).unwrap();
        }
        let damaged = files_below(&store);
        let refused = scene.deployment.run_command().limit(SOON).run();
        refused.code_is(1).says(&[store.to_str().unwrap()]).says(&["damaged", "corrupt"]);
        let kept = files_below(&store);
        assert!(
            damaged.iter().all(|(path, content)| kept.get(path) == Some(content)),
            "evidence was overwritten"
        );
    });
}

#[test]
fn a_lost_certificate_authority_is_named() {
    in_lab!(|lab| {
        let deployment = Deployment::new(lab);
        deployment.init().ok();
        fs::write(deployment.data_dir().join("ca/issuing.key"), "not a key\n").unwrap();
        deployment.run_command().limit(SOON).run().code_is(1).says(&["issuing.key"]);
    });
}

#[test]
fn nonsense_on_the_command_line_is_a_usage_error() {
    in_lab!(|lab| {
        let deployment = Deployment::new(lab);
        let data = deployment.data_dir();
        let data = data.to_str().unwrap();
        let cases: [(&[&str], &str); 5] = [
            (&["init", "--data-dir", data, "--name", "a b"], "a b"),
            (&["init", "--data-dir", data, "--name", "host:0"], "host:0"),
            (&["run", "--data-dir", data, "--listen", "nowhere"], "nowhere"),
            (&["run", "--data-dir", data, "--listen", "127.0.0.1:99999"], "99999"),
            (&["sail"], "sail"),
        ];
        for (args, words) in cases {
            deployment.server_program().args(args).limit(SOON).run().code_is(2).says(&[words]);
        }
        assert!(!Path::new(data).exists(), "a usage error made files");
    });
}

#[test]
fn a_full_disk_stops_nothing_that_is_not_writing() {
    in_lab!(|lab| {
        let deployment = Deployment::new(lab);
        let small = deployment.data_dir();
        fs::create_dir_all(&small).unwrap();
        run_ok(Program::new("mount").args(["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs"]).arg(&small));
        deployment.init().ok();
        deployment.start();
        let mut filler = fs::File::create(small.join("filler")).unwrap();
        let _ = std::io::copy(&mut std::io::repeat(0), &mut filler);
        // It may refuse what needs the disk, with the reason, but it answers and does not panic.
        let added = deployment.console(&["satellite", "add", "office-1", "--segment", "office"]);
        assert!([0, 1].contains(&added.code), "{added}");
        stays("the server to answer", Duration::from_secs(2), || deployment.console(&["status"]).code == 0);
        assert!(!deployment.server_log().contains("panicked at"), "{}", deployment.server_log());
    });
}
