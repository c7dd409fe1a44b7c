-- flags: no-writes
-- args: key (scheduled, dated, waiting ...), score and member to go on after, or nothing and nothing, most
-- replies: (score, member)*

local INDEXES = {
  scheduled = K.scheduled, dated = K.dated, waiting = K.waiting, parked = K.parked, available = K.available,
  claimed = K.claimed, stalled = K.stalled, finished = K.finished, unheard = K.unheard,
}
local key, score, member, most = INDEXES[ARGV[3]], tonumber(ARGV[4]), ARGV[5], math.min(1000, tonumber(ARGV[6]))

-- By bytes, as the index is ordered; Lua's own comparison follows the server's locale.
local function not_after(one, other)
  for at = 1, math.min(#one, #other) do
    local a, b = string.byte(one, at), string.byte(other, at)
    if a ~= b then return a < b end
  end
  return #one <= #other
end

local function before_or_at(rank)
  local entry = redis.call('ZRANGE', key, rank, rank, 'WITHSCORES')
  local there = tonumber(entry[2])
  return there < score or there == score and not_after(entry[1], member)
end

-- The first rank past an entry that may be gone by now: entries are in order, so halve.
local function first_after()
  if not score then return 0 end
  local low, high = 0, redis.call('ZCARD', key)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if before_or_at(middle) then low = middle + 1 else high = middle end
  end
  return low
end

local first = first_after()
return redis.call('ZRANGE', key, first, first + most - 1, 'WITHSCORES')
