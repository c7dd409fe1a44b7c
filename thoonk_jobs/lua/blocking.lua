-- Keys that nobody may publish with for a while: by an operator, or after too many failures.

-- In the key limits, with an index by time: what is over is forgotten along with what is set, a few at a time.
local function unset(times, letter, key)
  redis.call('ZREM', times, key)
  redis.call('HDEL', K.limits, letter .. key)
end

local function set(times, letter, key, over, value)
  local past = redis.call('ZRANGEBYSCORE', times, '-inf', string.format('%.0f', T.now), 'LIMIT', 0, 10)
  for _, other in ipairs(past) do unset(times, letter, other) end
  redis.call('ZADD', times, string.format('%.0f', over), key)
  redis.call('HSET', K.limits, letter .. key, value)
end

function T.block(key, span, reason)
  local over = T.now + span
  set(K.blocked, 'b', key, over, struct.pack('>d', over) .. reason)
  unset(K.failing, 'f', key)
  redis.call('LPUSH', K.blockings, struct.pack('>dd', T.wall, span) .. T.frame(key) .. reason)
  redis.call('LTRIM', K.blockings, 0, 999)
  T.limits[key] = nil
  T.store_limited()
end

-- True where it was blocked; a block that is over may not be forgotten yet.
function T.unblock(key)
  local until_ = T.limits_of(key).until_ or T.now
  unset(K.blocked, 'b', key)
  unset(K.failing, 'f', key)
  T.limits[key] = nil
  T.store_limited()
  return until_ > T.now
end

-- When attempts failed that count: those within the window.
function T.failures_of(key)
  local raw, times = redis.call('HGET', K.limits, 'f' .. key) or '', {}
  local after = T.now - T.limits_of(key)[LIMIT_WINDOW]
  for at = 1, #raw, 8 do
    local time = struct.unpack('>d', raw, at)
    if time > after then times[#times + 1] = time end
  end
  return times
end

-- An attempt failed: one failure too many in the window blocks the key. Failures meanwhile do not prolong a block.
function T.count_failure(key)
  local limits = T.limits_of(key)
  local most, window = limits[LIMIT_FAILURES], limits[LIMIT_WINDOW]
  if key == '' or most == math.huge or limits.until_ and limits.until_ > T.now then return end
  local times = T.failures_of(key)
  times[#times + 1] = T.now
  if #times >= most then
    return T.block(key, limits[LIMIT_BLOCK], string.format('%.0f failures within %g s', most, window / 1000))
  end
  for at, time in ipairs(times) do times[at] = struct.pack('>d', time) end
  set(K.failing, 'f', key, T.now + window, table.concat(times))
end
