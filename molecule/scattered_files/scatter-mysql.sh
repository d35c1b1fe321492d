#!/usr/bin/env bash
# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Makes the package's MySQL anew with its files all over /srv/scattered, beside files of another server.
set -eu
root=/srv/scattered
systemctl stop mysql
newline=$root/$'new\nline'
mkdir -p "$root/in no db" "$root"/{redo,undo,doublewrite,temporary,empty,logs,indexes,load,files,tls/hashed,keys,links} \
    "$root/tables #1" "$root/tables ünï" "$root/undo more" "$newline"

# innodb_directories must not have the target of a symbolic link: the server would find its tables twice.
cat >/etc/mysql/mysql.conf.d/zz-scattered.cnf <<'CONF'
[mysqld]
innodb_data_home_dir = "/srv/scattered/in no db"
innodb_data_file_path = ibdata1:12M;ibdata2:12M:autoextend
innodb_log_group_home_dir = /srv/scattered/redo
innodb_undo_directory = /srv/scattered/undo
innodb_doublewrite_dir = /srv/scattered/doublewrite
innodb_temp_tablespaces_dir = /srv/scattered/temporary
innodb_buffer_pool_filename = warm
innodb_directories = "/srv/scattered/tables #1;/srv/scattered/tables ünï;/srv/scattered/new\nline;/srv/scattered/undo more;/srv/scattered/empty"
innodb_use_native_aio = OFF
log_bin = "/srv/scattered/logs/Primary #1"
log_bin_index = /srv/scattered/indexes/primary.list
relay_log = "/srv/scattered/logs/Relay #1"
relay_log_index = /srv/scattered/indexes/relayed.list
relay_log_purge = OFF
replica_load_tmpdir = /srv/scattered/load
binlog_encryption = ON
innodb_flush_log_at_trx_commit = 2
sync_binlog = 0
secure_file_priv = /srv/scattered/files
!include /srv/scattered/extra one.cnf
CONF
cat >"$root/extra one.cnf" <<'CONF'
[mysqld]
ssl_ca = /srv/scattered/tls/ca.pem
ssl_capath = /srv/scattered/tls/hashed
ssl_cert = /srv/scattered/tls/server-cert.pem
ssl_key = /srv/scattered/tls/server-key.pem
CONF

cp -a /var/lib/mysql/{ca,server-cert,server-key}.pem "$root/tls"
ln -s ../ca.pem "$root/tls/hashed/$(openssl x509 -in "$root/tls/ca.pem" -hash -noout).0"
echo '{"components": "file://component_keyring_file"}' >/usr/sbin/mysqld.my
echo '{"path": "/srv/scattered/keys/keyring", "read_only": false}' >/usr/lib/mysql/plugin/component_keyring_file.cnf

# Another server's.
cd "$root"
for name in 'logs/Primary #2.000001' 'logs/Primary #1b.000001' 'logs/Relay #1b.000001' indexes/other.list indexes/primary.txt \
    load/SQL_LOAD-00000000-0000-0000-0000-000000000000-1-1.data keys/other tls/other.pem "tables #1/note.txt" \
    undo/readme redo/other files/exported empty/note.txt; do
    echo foreign >"$name"
done

rm -rf /var/lib/mysql/*
chown -R mysql:mysql "$root"
# Not as root: the keyring would be root's.
runuser -u mysql -- mysqld --initialize-insecure
systemctl start mysql

# An empty database that becomes a link; kept by the server for a directory of its own.
mysql --execute "CREATE DATABASE linked"
mv /var/lib/mysql/linked "$root/links/linked"
ln -s "$root/links/linked" /var/lib/mysql/linked
mysql --execute "SET PERSIST innodb_redo_log_encrypt = ON; SET PERSIST innodb_undo_log_encrypt = ON; SET PERSIST max_connections = 123"
