#!/usr/bin/env bash
# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# usage: sanity.sh RESULTS_DIRECTORY [ARGUMENT OF ansible-test sanity...]
#
# ansible-test wants a real directory .../ansible_collections/NAMESPACE/NAME that is a git checkout, so
# the files (committed or not, ignored ones left out) are laid into one.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=$(realpath -m "$1")
shift
mkdir -p "$results"
checkout=$PWD
work=$PWD/.cache/sanity
copy=$work/ansible_collections/mysql_ops/replica_backup
home=$PWD/.cache/home

exec 9>.cache/sanity.lock
flock 9

# Its caches and virtual environments stay inside this checkout. The user's pip settings still count.
mkdir -p "$home/.ansible/test/cache" "$home/.config"
for settings in .pip .config/pip .config/uv; do
    if [ -e "$HOME/$settings" ]; then
        ln -sfn "$HOME/$settings" "$home/$settings"
    fi
done

# It bootstraps pip with a script from a host of its own. The interpreter carries pip already; put the
# same under the name that each version of ansible-test looks for.
for name in get_pip_23_1_2 get_pip_24_2 get_pip_25_2; do
    cat >"$home/.ansible/test/cache/$name.py" <<'PY'
import subprocess
import sys

arguments = [a for a in sys.argv[1:] if a not in ("--no-setuptools", "--no-wheel")]
# As a process of its own: called here, ensurepip would switch pip's configuration files off.
subprocess.check_call([sys.executable, "-m", "ensurepip"], stdout=subprocess.DEVNULL)
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", *arguments]))
PY
done

# It compiles and imports with every Python it finds by name. Some of those names may be shims that run
# nothing, so it gets a PATH with the ones that work, pyenv's versions included.
pythons=$PWD/.cache/pythons
rm -rf "$pythons"
mkdir -p "$pythons"
for name in python3.8 python3.9 python3.10 python3.11 python3.12 python3.13 python3.14; do
    for path in "$(command -v "$name" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/"$name"; do
        if [ -x "$path" ] && real=$("$path" -c 'import sys, venv, ensurepip; print(sys.executable)' 2>/dev/null); then
            case $real in "$checkout"/*) continue ;; esac
            ln -sfn "$real" "$pythons/$name"
            break
        fi
    done
done

rm -rf "$copy"
mkdir -p "$copy"
git -c core.quotePath=false ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do
        # A file that is deleted but not yet committed is still listed.
        [ ! -e "$file" ] || printf '%s\0' "$file"
    done | tar --null -T - -c | tar -C "$copy" -x
git -C "$copy" init -q
git -C "$copy" add -A
git -C "$copy" -c user.name=sanity -c user.email=sanity@localhost commit -q -m sanity

cd "$copy"
log=$results/sanity.log
status=0
HOME=$home PATH=$checkout/.venv/bin:$pythons:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    ansible-test sanity --venv --color no --junit "$@" >"$log" 2>&1 </dev/null || status=$?

# Without what pip says while it makes the environments.
grep -E '^(Running sanity|ERROR|FATAL|WARNING: (Skipping|Reviewing)|>>>)' "$log" || true
[ "$status" -eq 0 ] || printf 'ansible-test sanity failed (%s); the whole log is %s\n' "$status" "$log" >&2

# One report per test that ran, passed or not.
for report in tests/output/junit/*.xml; do
    [ ! -e "$report" ] || cp "$report" "$results/sanity-$(basename "$report" | sed 's/^ansible-test-sanity-//')"
done
exit "$status"
