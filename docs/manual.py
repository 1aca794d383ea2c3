#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the manual page of forkserve, in mdoc(7), from the help texts of the program.

    docs/manual.py .build/debug/forkserve > docs/forkserve.1

The page's date is that of the newest version in CHANGELOG.md. So the same program makes the same page on any day.
"""

import json
import pathlib
import re
import subprocess
import sys
import textwrap
import time

INTRODUCTION = """
The first argument says what to serve (COMMANDS), and ADDRESS where to listen (ADDRESSES). Each client is served by a
process of its own, so that a crash, a hang or a leak there affects only that client. With prefork a worker serves many
clients, and with exec --wait a program does.
"""
ENVIRONMENT = [
    ("LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES",
     "The sockets that a service manager hands over, as in sd_listen_fds(3). To serve them, use the ADDRESS systemd."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID",
     "How the server reports its state to a service manager, as in sd_notify(3). PROGRAM does not get these "
     "variables."),
]
EXAMPLES = [
    ("Send lines back, to at most 100 clients at a time, each for at most a minute:",
     "forkserve echo --max-children 100 --timeout 60 127.0.0.1:7777"),
    ("Serve git repositories, with a process for each client:",
     "forkserve exec 127.0.0.1:9418 -- \\\n    git daemon --inetd --export-all --base-path=/srv/git"),
    ("Run a program as another user:",
     "forkserve exec --user nagios 0.0.0.0:5666 -- \\\n    nrpe -i -c /etc/nagios/nrpe.cfg"),
    ("Give a program the listening socket, as inetd's 'wait' does:",
     "forkserve exec --wait --udp 0.0.0.0:69 -- in.tftpd --secure /srv/tftp"),
    ("Serve with four workers, and show what they do:",
     "forkserve prefork --workers 4 --control /run/x.sock 127.0.0.1:7777\nforkserve status /run/x.sock"),
]
SEE_ALSO = [("nc", 1), ("systemd.socket", 5), ("signal", 7), ("unix", 7), ("inetd", 8)]


def says(program, argument):
    return subprocess.run([program, argument], check=True, capture_output=True, text=True).stdout


def text(words):
    """Escapes text for roff, so that it contains no request, escape or typographic quote."""
    words = words.replace("\\", "\\e").replace("'", "\\(aq").replace("^", "\\(ha").replace("~", "\\(ti")
    words = re.sub(r"`", r"\\(ga", words)
    words = re.sub(r"(?<![A-Za-z0-9])-|-(?=-)", r"\\-", words)
    return re.sub(r"^\.", r"\\&.", words, flags=re.MULTILINE)


def prose(paragraph):
    """Fills a paragraph. Each sentence begins a line, so that roff recognises its end."""
    sentences = re.sub(r"\. +(?=[A-Z0-9])", ".\n", " ".join(paragraph.split())).splitlines()
    return text("\n".join(textwrap.fill(s, 78, break_long_words=False, break_on_hyphens=False) for s in sentences))


def literal(lines):
    return ".Bd -literal -offset 2n\n" + text(lines) + "\n.Ed"


def described(discussion):
    """Formats paragraphs. Those with columns or indented lines keep their lines, except a first line before them."""
    parts = []
    for paragraph in discussion.split("\n\n"):
        first, _, rest = paragraph.partition("\n")
        if re.search(r"^ |\S {2,}\S", rest, re.MULTILINE):
            parts.append(prose(first) + "\n" + literal("\n".join(line.removeprefix("  ") for line in rest.split("\n"))))
        else:
            parts.append(prose(paragraph))
    return "\n.Pp\n".join(parts)


def option(argument):
    if argument["kind"] == "positional":
        title = f".It Ar {argument['valueName']}" + (" ..." if argument["isRepeating"] else "")
    else:
        names = [("-" if name["kind"] == "long" else "") + name["name"] for name in argument["names"]]
        value = f" Ar {argument['valueName']}" if argument["kind"] == "option" else ""
        title = ".It " + " , ".join(f"Fl {name}{value}" for name in names)
    lines = [title, prose(argument.get("abstract", ""))]
    if "defaultValue" in argument:
        lines.append(text(f"(default: {argument['defaultValue']})"))
    return "\n".join(lines)


def options(arguments):
    return "\n".join([".Bl -tag -width Ds", *map(option, arguments), ".El"]) if arguments else ""


def page(program):
    root = json.loads(says(program, "--experimental-dump-help"))["command"]
    version = says(program, "--version").strip()
    changes = (pathlib.Path(__file__).parent.parent / "CHANGELOG.md").read_text()
    date = time.strptime(re.search(r"^## \[[0-9].*\] - (\S+)$", changes, re.MULTILINE)[1], "%Y-%m-%d")

    commands = [command for command in root["subcommands"] if command["commandName"] != "help"]
    shown = {
        command["commandName"]: [a for a in command["arguments"] if a["shouldDisplay"]] for command in commands
    }
    everywhere = [a for a in root["arguments"] if a["shouldDisplay"]]
    servers = [name for name, arguments in shown.items() if any(a["valueName"] == "address" for a in arguments)]
    common = [
        a for a in shown[servers[0]]
        if a["kind"] != "positional" and all(a in shown[name] for name in servers) and a not in everywhere
    ]

    # The help text has: the forms of the commands, with descriptions; addresses; how it runs; exit statuses.
    forms, addresses, rest = root["discussion"].split("\n\n")
    running, ending = rest.split("Exit status: ")
    lines = [
        '.\\" Generated by docs/manual.py: change the help texts of forkserve, or that script.',
        f".Dd {time.strftime('%B', date)} {date.tm_mday}, {date.tm_year}",
        ".Dt FORKSERVE 1", f".Os {version}",
        ".Sh NAME", ".Nm forkserve", f".Nd {lowered(root['abstract'])}",
        ".Sh SYNOPSIS", *[".Nm\n" + synopsis(form) for form in forms.split("\n") if not form.startswith(" ")],
        ".Nm", ".Fl -version | Fl -help",
        ".Sh DESCRIPTION", prose(INTRODUCTION), ".Pp", prose(running),
        ".Sh ADDRESSES", described(addresses),
        ".Sh COMMANDS",
    ]
    for command in commands:
        name = command["commandName"]
        own = [a for a in shown[name] if a not in common and a not in everywhere]
        lines += [f".Ss {name}", prose(command["abstract"])]
        if "discussion" in command:
            lines += [".Pp", described(command["discussion"])]
        lines += [options(own)]
    lines += [
        ".Sh OPTIONS",
        "Of " + ", ".join(servers[:-1]) + " and " + servers[-1] + ":", options(common),
        ".Pp", "Of all commands:", options(everywhere),
        ".Sh ENVIRONMENT", ".Bl -tag -width Ds",
        *[".It Ev " + names.replace(", ", " , Ev ") + "\n" + prose(what) for names, what in ENVIRONMENT], ".El",
        ".Sh EXIT STATUS", prose(ending),
        ".Sh EXAMPLES",
    ]
    for number, (what, how) in enumerate(EXAMPLES):
        lines += [".Pp"] * (number > 0) + [prose(what), literal(how)]
    lines += [".Sh SEE ALSO", *[f".Xr {name} {section} ," for name, section in SEE_ALSO]]
    lines[-1] = lines[-1].removesuffix(" ,")
    return "\n".join(line for line in lines if line) + "\n"


def synopsis(form):
    """Formats `forkserve exec [options] ADDRESS ... -- PROGRAM [ARG ...]` as macros."""
    macros = []
    for word in form.split()[1:]:
        opened, bare = word.startswith("["), word.strip("[]")
        kind = "Fl " + bare.removeprefix("-") if bare.startswith("-") else \
            bare if bare == "..." else \
            "Ar " + bare if bare.isupper() or bare == "options" else "Cm " + bare
        macros.append(("Op " if opened else "") + kind)
    lines = []
    for macro in macros:
        if macro == "...":
            lines[-1] += " ..."
        else:
            lines.append("." + macro)
    return "\n".join(lines)


def lowered(sentence):
    return text(sentence[0].lower() + sentence[1:].removesuffix("."))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.stdout.write(page(sys.argv[1]))
