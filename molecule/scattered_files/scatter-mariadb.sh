#!/usr/bin/env bash
# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Makes the package's MariaDB anew with its files all over /srv/scattered, beside files of another server.
set -eu
root=/srv/scattered
systemctl stop mariadb.socket mariadb
rm -rf /var/lib/mysql/*
newline=$root/$'new\nline'
mkdir -p "$root/in no db/more" "$root"/{redo,undo,aria,logs,indexes,state,load,tls/hashed,keys,extra.d,links/linked} \
    "$root/tables #1" "$root/index ünï" "$newline" /var/lib/mysql/state
ln -s "$root/links/linked" /var/lib/mysql/linked

cat >/etc/mysql/mariadb.conf.d/95-scattered.cnf <<'CONF'
[mysqld]
innodb_data_home_dir = "/srv/scattered/in no db"
innodb_data_file_path = ibdata1:12M;more/ibdata2:12M:autoextend
innodb_log_group_home_dir = /srv/scattered/redo
innodb_undo_directory = /srv/scattered/undo
innodb_undo_tablespaces = 3
innodb_buffer_pool_filename = warm
innodb_encrypt_log = ON
aria_log_dir_path = /srv/scattered/aria
log_bin = "/srv/scattered/logs/Primary #1"
log_bin_index = /srv/scattered/indexes/primary.list
relay_log = "/srv/scattered/logs/Relay #1"
relay_log_index = /srv/scattered/indexes/relayed.list
relay_log_purge = OFF
relay_log_info_file = state/applied.info
master_info_file = /srv/scattered/state/connection.info
slave_load_tmpdir = /srv/scattered/load
encrypt_binlog = ON
innodb_flush_log_at_trx_commit = 2
sync_binlog = 0
plugin_load_add = ha_archive
plugin_load_add = file_key_management
file_key_management_filename = /srv/scattered/keys/keys.enc
file_key_management_filekey = FILE:/srv/scattered/keys/pass
!include /srv/scattered/extra one.cnf
!includedir /srv/scattered/extra.d
CONF
printf '[mysqld]\nmax_connections = 123\n' >"$root/extra one.cnf"
cat >"$root/extra.d/tls.cnf" <<'CONF'
[mysqld]
ssl_ca = /srv/scattered/tls/ca.pem
ssl_capath = /srv/scattered/tls/hashed
ssl_cert = /srv/scattered/tls/server-cert.pem
ssl_key = /srv/scattered/tls/server-key.pem
CONF

cd "$root/tls"
for name in ca server; do
    openssl req -x509 -newkey rsa:2048 -nodes -keyout "$name-key.pem" -out "$name-cert.pem" -subj "/CN=$name" -days 30
done
mv ca-cert.pem ca.pem
rm ca-key.pem
ln -s ../ca.pem "hashed/$(openssl x509 -in ca.pem -hash -noout).0"
cd "$root/keys"
openssl rand -hex 64 >pass
printf '%s\n' "1;$(openssl rand -hex 32)" "2;$(openssl rand -hex 32)" |
    openssl enc -aes-256-cbc -md sha1 -pass file:pass -out keys.enc

# Another server's.
cd "$root"
for name in 'logs/Primary #2.000001' 'logs/Primary #1b.000001' 'logs/Relay #1b.000001' indexes/other.list indexes/primary.txt \
    load/SQL_LOAD-999-1-1.data state/other.info keys/other tls/other.pem "tables #1/note.txt" undo/readme redo/other; do
    echo foreign >"$name"
done

chown -R mysql:mysql "$root" /var/lib/mysql
mariadb-install-db --user=mysql --skip-test-db --auth-root-authentication-method=socket
systemctl start mariadb.socket
systemctl start mariadb
