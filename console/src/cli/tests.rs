use super::*;
use clap::CommandFactory as _;

#[test]
fn the_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn global_options_stand_anywhere() {
    for line in [
        "portolan -o json --context lab satellite list",
        "portolan satellite -o json list --context lab",
        "portolan satellite list --context lab -o json",
    ] {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert_eq!(cli.global.output, Some(Format::Json), "{line}");
        assert_eq!(cli.global.context, "lab", "{line}");
    }
}

#[test]
fn nmap_habits_of_writing_ports_are_understood() {
    for (line, ports) in [
        ("portolan scan 10.0.0.1 -p- --from a", Some("-")),
        ("portolan scan 10.0.0.1 -p - --from a", Some("-")),
        ("portolan scan 10.0.0.1 -p -100 --from a", Some("-100")),
        ("portolan scan 10.0.0.1 -p22,80 --from a,b", Some("22,80")),
        ("portolan scan 10.0.0.1 --from a", None),
    ] {
        let Command::Scan(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else { panic!() };
        assert_eq!(args.ports.as_deref(), ports, "{line}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_exit_code_2() {
    for line in [
        "portolan scan 10.0.0.1",
        "portolan scan --from a",
        "portolan satellite add Office --segment x",
        "portolan satellite add a --segment x --ttl 1s",
        "portolan satellite add a --segment x --ttl 31d",
        "portolan satellite add a --segment x --scope 10.0.0.0/33",
        "portolan history 10.0.0.1:99999",
        "portolan history 10.0.0.1 --since yesterday",
        "portolan status -o html",
        "portolan completions powershell",
        "portolan scan 10.0.0.1 --from a --discover --no-discover",
        "portolan scan 10.0.0.1 --from a --max-rate 0",
        "portolan scan 10.0.0.1 --from a --max-rate-per-host 5000000000",
        "portolan scan 10.0.0.1 --from a --udp-budget 2d",
        "portolan scan 10.0.0.1 --from a --udp-budget 0s",
        "portolan scan 10.0.0.1 --from a --method fin",
        "portolan scans pause",
        "portolan scans pause 01a",
        "portolan scans cancel office-1",
    ] {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn what_makes_no_sense_together_is_refused_too() {
    for line in [
        "portolan alert list --firing --all",
        "portolan alert list --firing --since 1h",
        "portolan alert list --all --since 1h",
        "portolan alert list team",
        "portolan alert list a=~(",
        "portolan alert show 01a",
        "portolan alert show",
        "portolan alert ack",
        "portolan alert comment 01a1",
        "portolan alert watch --for 0s",
        "portolan alert watch --for soon",
        "portolan silence add --for 1h -m x",
        "portolan silence add team=shop -m x",
        "portolan silence add team=shop --for 1h",
        "portolan silence add team=shop --for 1h --until 2026-05-01 -m x",
        "portolan silence add team=shop --until tomorrow -m x",
        "portolan silence expire office-1",
        "portolan check show Shop",
        "portolan check run",
        "portolan baseline accept shop shop.internal:80",
        "portolan baseline accept shop 10.0.0.1:99999",
        "portolan baseline take",
        "portolan change open CHG1 --for 1h",
        "portolan change open CHG1 --expect a->10.0.0.1:80",
        "portolan change close",
        "portolan changes",
        "portolan changes --since yesterday",
        "portolan policy check",
        "portolan policy apply",
        "portolan policy apply a.toml --based-on -1",
        "portolan policy rollback",
        "portolan policy rollback 0",
        "portolan policy show --version 0",
        "portolan policy export",
    ] {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
    let refused = |line: &[&str]| Cli::try_parse_from(line).unwrap_err().exit_code();
    let open = ["portolan", "change", "open", "CHG1", "--expect", "a->10.0.0.1:80 open", "--for"];
    assert_eq!(refused(&[&open[..], &["59s"]].concat()), 2);
    assert_eq!(refused(&[&open[..], &["31d"]].concat()), 2);
    let long = "x".repeat(1001);
    assert_eq!(refused(&[&open[..], &["1h", "-m", &long]].concat()), 2);
    assert!(Cli::try_parse_from([&open[..], &["1h", "-m", "why"]].concat()).is_ok());
    assert_eq!(refused(&["portolan", "change", "close", "CHG 1"]), 2);
    assert_eq!(refused(&["portolan", "alert", "comment", "01a1", " "]), 2);
}

#[test]
fn every_command_has_examples() {
    fn check(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        let has_help = command.get_after_help().is_some_and(|help| help.to_string().contains("portolan "));
        let subcommands: Vec<_> = command.get_subcommands().collect();
        // Of plain ones their usage says all.
        let plain = ["show", "revoke", "remove", "pause", "resume", "cancel"].contains(&command.get_name());
        assert!(has_help || plain || !subcommands.is_empty(), "{path}");
        subcommands.iter().for_each(|command| check(command, &path));
    }
    check(&Cli::command(), "");
}
