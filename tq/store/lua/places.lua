-- places: where a user stands in a stable order, and ordered sets that Redis keeps compact.
-- An ordered set of any size is kept as leaves of at most 128 entries, which Redis stores without
-- per-entry overhead, and a directory of the leaves' starts. A full leaf is halved before it gets
-- another entry: once beyond the limit, Redis would never store it compactly again.
-- Entries of one place always share a leaf, so that a page can end between leaves.
local LEAF_SIZE = 128
local PLACES = 2147483648

-- 31 bits: Redis stores a score of that size in 5 bytes. Pinned by a test, since it decides at
-- which minute a user is served: it must never change. tq/slots.py computes the same.
local function place_of(text)
  return math.floor(tonumber(string.sub(redis.sha1hex(text), 1, 8), 16) / 2)
end

-- How far along an order that begins at the place `first` a place stands.
local function position_of(place, first) return (place - first) % PLACES end

local function leaf_start(directory, place)
  return redis.call('ZREVRANGEBYSCORE', directory, place, '-inf', 'LIMIT', 0, 1)[1]
end

local function add_leaf(directory, start)
  redis.call('ZADD', directory, start, start)
  return tostring(start)
end
