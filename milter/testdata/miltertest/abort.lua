-- ABORT in the middle, a quarantined message, a discarded one, and a peer that goes without a word.
conn = mt.connect(socket)
if conn == nil then error "connect" end
if mt.conninfo(conn, "laptop.example.com", "unspec") ~= nil then error "conninfo" end
if mt.helo(conn, "laptop.example.com") ~= nil then error "helo" end
if mt.mailfrom(conn, "<alice@example.com>") ~= nil then error "mailfrom" end
if mt.rcptto(conn, "<bob@example.net>") ~= nil then error "rcptto" end
mt.header(conn, "X-Test", "edit")
if mt.abort(conn) ~= nil then error "abort" end

function message(test)
	if mt.mailfrom(conn, "<alice@example.com>") ~= nil then error "mailfrom" end
	if mt.getreply(conn) ~= SMFIR_CONTINUE then error "mailfrom: not continued" end
	if mt.rcptto(conn, "<bob@example.net>") ~= nil then error "rcptto" end
	mt.header(conn, "From", "alice@example.com")
	mt.header(conn, "X-Test", test)
	if mt.eoh(conn) ~= nil then error "eoh" end
	if mt.bodystring(conn, "Hello.\r\n") ~= nil then error "body" end
	if mt.eom(conn) ~= nil then error "eom" end
end

message("none")
if mt.eom_check(conn, MT_HDRADD) or mt.eom_check(conn, MT_HDRINSERT) then error "the header before ABORT is still there" end
message("quarantine")
if not mt.eom_check(conn, MT_QUARANTINE, "hold this") then error "not quarantined" end
if not mt.eom_check(conn, MT_HDRADD, "X-Held") then error "a quarantined message lost its edit" end
message("discard")
if mt.getreply(conn) ~= SMFIR_DISCARD then error "not discarded" end
if mt.eom_check(conn, MT_QUARANTINE) then error "the quarantine stuck" end
mt.disconnect(conn, false)
