-- missing: which of these messages are neither waiting nor being worked on; changes nothing.
-- ARGV: now, the queue of all of them, then per message its id
-- Returns the places of the missing ones, counted from 0.
local places = {}
for i = 3, #ARGV do
  if not queued(ARGV[2], ARGV[i]) then table.insert(places, i - 3) end
end
return places
