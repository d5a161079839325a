# Reads rooms.txt, then the sources of src/ and include/; prints every include that the table does not allow.

function room_of(path, parts) {
  split(path, parts, "/")
  return (parts[1] "/" parts[2]) in rooms ? parts[1] "/" parts[2] : parts[1]
}

function allowed_header(header, list, i, n, prefixes) {
  if (header !~ /[.\/]/) return 1  # <vector>
  n = split(list, prefixes, " ")
  for (i = 1; i <= n; i++)
    if (index(header, prefixes[i]) == 1) return 1
  return 0
}

function complain(text) { print FILENAME ":" FNR ": " text }

FILENAME == table {
  sub(/#.*/, "")
  if (split($0, fields, /[:|]/) < 2) next
  gsub(/ /, "", fields[1])
  rooms[fields[1]] = " " fields[1] " " fields[2] " "
  headers[fields[1]] = fields[3]
  next
}

/^[ \t]*#[ \t]*include/ {
  quoted = $0 ~ /"/
  header = $0
  sub(/^[^<"]*[<"]/, "", header)
  sub(/[>"].*$/, "", header)
  if (index(header, "raedit/") == 1) next
  if (FILENAME ~ /^include\//) {
    if (quoted || header ~ /[.\/]/) complain("public headers include only raedit/... and the standard library, not " header)
    next
  }
  room = room_of(substr(FILENAME, 5))
  if (!(room in rooms)) { complain("room '" room "' is not in scripts/checks/rooms.txt"); next }
  target = room_of(header)
  if (quoted && target in rooms && header ~ /\//) {
    if (index(rooms[room], " " target " ") == 0) complain("room '" room "' may not include room '" target "': " header)
  } else if (!allowed_header(header, headers[room])) {
    complain("room '" room "' may not include " header)
  } else if (quoted && header !~ /\//) {
    complain("write room/file.h, not " header)
  }
}
