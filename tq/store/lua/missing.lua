-- missing: which of these messages are neither waiting nor being worked on; changes nothing.
-- ARGV: now, then per message two texts: queue, message id
-- Returns the places of the missing ones, counted from 0.
local places = {}
for i = 2, #ARGV, 2 do
  if not queued(ARGV[i], ARGV[i + 1]) then table.insert(places, (i - 2) / 2) end
end
return places
