-- look: whether a program may work with what is stored here; asked once by each, before anything else.
-- ARGV: now, the version in which it stores, then per key whose name is always the same: name, type
-- Returns name and type of such a key that is of another type; or nothing.
-- The version in which all is stored is noted, if Redis takes it now: from then on programs of earlier ones, also
-- those that run already, are kept out by what stands in front of every script.
local server = redis.pcall('INFO', 'server')
if type(server) == 'string' and string.find(server, '_mode:cluster', 1, true) then return redis.error_reply('CLUSTER mode') end
for i = 3, #ARGV, 2 do
  local found = redis.call('TYPE', ARGV[i]).ok
  if found ~= 'none' and found ~= ARGV[i + 1] then return { ARGV[i], found } end
end
if tonumber(redis.call('GET', K.data_version()) or 0) < tonumber(ARGV[2]) then
  redis.pcall('SET', K.data_version(), ARGV[2])
end
return {}
