-- Refusals at MAIL, RCPT and end of message, and what comes after them on the same connection.
conn = mt.connect(socket)
if conn == nil then error "connect" end
if mt.conninfo(conn, "laptop.example.com", "192.0.2.10") ~= nil then error "conninfo" end
if mt.helo(conn, "laptop.example.com") ~= nil then error "helo" end

if mt.mailfrom(conn, "<badmail@example.com>") ~= nil then error "mailfrom" end
if mt.getreply(conn) ~= SMFIR_REPLYCODE then error "a bad sender is not refused" end

for n = 1, 2 do
	if mt.mailfrom(conn, "<alice@example.com>") ~= nil then error "mailfrom" end
	if mt.getreply(conn) ~= SMFIR_CONTINUE then error "a good sender after a bad one is refused" end
	if mt.rcptto(conn, "<bad@example.net>") ~= nil then error "rcptto" end
	if mt.getreply(conn) ~= SMFIR_REPLYCODE then error "a bad recipient is not refused" end
	if mt.rcptto(conn, "<bob@example.net>") ~= nil then error "rcptto" end
	if mt.getreply(conn) ~= SMFIR_CONTINUE then error "a good recipient after a bad one is refused" end
	mt.header(conn, "From", "alice@example.com")
	mt.header(conn, "X-Test", n == 1 and "reject" or "defer")
	if mt.eoh(conn) ~= nil then error "eoh" end
	if mt.bodystring(conn, "Hello.\r\n") ~= nil then error "body" end
	if mt.eom(conn) ~= nil then error "eom" end
	if mt.getreply(conn) ~= SMFIR_REPLYCODE then error "the message is not refused" end
	if mt.eom_check(conn, MT_HDRADD) or mt.eom_check(conn, MT_HDRINSERT) then error "a refused message was edited" end
end
mt.disconnect(conn)
