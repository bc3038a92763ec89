-- Macros at every stage and an old protocol version: version 2 without any option.
conn = mt.connect(socket)
if conn == nil then error "connect" end
-- miltertest takes the protocol options before the actions, whatever its manual says.
if mt.negotiate(conn, 2, 0, SMFIF_ADDHDRS + SMFIF_CHGHDRS + SMFIF_ADDRCPT + SMFIF_DELRCPT) ~= nil then error "negotiate" end
mt.macro(conn, SMFIC_CONNECT, "j", "mta.example.com", "daemon_name", "MTA")
if mt.conninfo(conn, "laptop.example.com", "192.0.2.10") ~= nil then error "conninfo" end
if mt.getreply(conn) ~= SMFIR_CONTINUE then error "conninfo: not continued" end
mt.macro(conn, SMFIC_HELO, "tls_version", "TLSv1.3", "cipher", "TLS_AES_256_GCM_SHA384")
if mt.helo(conn, "laptop.example.com") ~= nil then error "helo" end
mt.macro(conn, SMFIC_MAIL, "i", "queue-1", "auth_authen", "alice", "auth_type", "PLAIN")
if mt.mailfrom(conn, "<alice@example.com>", "BODY=8BITMIME", "SIZE=100") ~= nil then error "mailfrom" end
if mt.getreply(conn) ~= SMFIR_CONTINUE then error "mailfrom: not continued" end
mt.macro(conn, SMFIC_RCPT, "rcpt_addr", "bob@example.net")
if mt.rcptto(conn, "<bob@example.net>", "NOTIFY=NEVER") ~= nil then error "rcptto" end
if mt.header(conn, "X-Test", "quarantine") ~= nil then error "header" end
if mt.getreply(conn) ~= SMFIR_CONTINUE then error "header: not continued" end
if mt.eoh(conn) ~= nil then error "eoh" end
if mt.bodystring(conn, "Hello.\r\n") ~= nil then error "body" end
if mt.eom(conn) ~= nil then error "eom" end
-- Quarantine was not offered: the failure verdict, never a silent pass.
if mt.getreply(conn) ~= SMFIR_REPLYCODE then error "a message that cannot be held was let through" end
mt.disconnect(conn)
