-- Header and envelope edits at the end of a message, twice on one connection.
conn = mt.connect(socket)
if conn == nil then error "connect" end
-- miltertest takes the protocol options before the actions, whatever its manual says; nil is everything it knows.
if mt.negotiate(conn, 6, nil, nil) ~= nil then error "negotiate" end
if mt.conninfo(conn, "laptop.example.com", "192.0.2.10") ~= nil then error "conninfo" end
if mt.helo(conn, "laptop.example.com") ~= nil then error "helo" end

for n = 1, 2 do
	mt.macro(conn, SMFIC_MAIL, "i", "queue-" .. n, "auth_authen", "alice")
	if mt.mailfrom(conn, "<alice@example.com>") ~= nil then error "mailfrom" end
	if mt.getreply(conn) ~= SMFIR_CONTINUE then error "mailfrom: not continued" end
	if mt.rcptto(conn, "<bob@example.net>") ~= nil then error "rcptto" end
	if mt.rcptto(conn, "<carol@example.net>") ~= nil then error "rcptto" end
	if mt.getreply(conn) ~= SMFIR_CONTINUE then error "rcptto: not continued" end
	mt.header(conn, "From", "Alice <alice@example.com>")
	mt.header(conn, "To", "bob@example.net")
	mt.header(conn, "X-Old", "1")
	mt.header(conn, "X-Gone", "1")
	mt.header(conn, "Subject", "one")
	mt.header(conn, "X-Old", "2")
	mt.header(conn, "X-Old", "3")
	mt.header(conn, "X-Gone", "2")
	mt.header(conn, "X-Test", "edit")
	if mt.eoh(conn) ~= nil then error "eoh" end
	if mt.bodystring(conn, "Hello.\r\n") ~= nil then error "body" end
	if mt.eom(conn) ~= nil then error "eom" end
	if mt.getreply(conn) ~= SMFIR_CONTINUE and mt.getreply(conn) ~= SMFIR_ACCEPT then error "eom: not accepted" end
	if not mt.eom_check(conn, MT_HDRINSERT, "X-Top", " a", 1) and not mt.eom_check(conn, MT_HDRINSERT, "X-Top", "a", 1) then error "X-Top is not on top" end
	if not mt.eom_check(conn, MT_HDRADD, "X-End") and not mt.eom_check(conn, MT_HDRINSERT, "X-End") then error "X-End is missing" end
	if not mt.eom_check(conn, MT_HDRDELETE, "X-Gone") then error "X-Gone stays" end
	if not mt.eom_check(conn, MT_RCPTADD, "<archive@example.com>") then error "archive is missing" end
	if not mt.eom_check(conn, MT_RCPTDELETE, "<bob@example.net>") then error "bob stays" end
	if mt.eom_check(conn, MT_RCPTDELETE, "<carol@example.net>") then error "carol is gone" end
	if mt.eom_check(conn, MT_QUARANTINE) then error "quarantined" end
end
mt.disconnect(conn)
