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

-- request: 16 digits by which it is known when it is sent again.
function T.block(key, span, reason, request)
  if T.limits_of(key).request == request then return end
  local over = T.now + span
  set(K.blocked, 'b', key, over, struct.pack('>d', over) .. request .. reason)
  unset(K.failing, 'f', key)
  redis.call('LPUSH', K.blockings, struct.pack('>dd', T.wall, span) .. T.frame(key) .. reason)
  redis.call('LTRIM', K.blockings, 0, 999)
  T.limits[key] = nil
  T.store_limited()
end

function T.unblock(key)
  unset(K.blocked, 'b', key)
  unset(K.failing, 'f', key)
  T.limits[key] = nil
  T.store_limited()
end

-- When attempts failed that count: those within the window, if there is one.
function T.failures_of(key)
  if T.limits_of(key)[LIMIT_FAILURES] == math.huge then return {} end
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
  if key == '' or most == math.huge or (limits.blocked_until or 0) > T.now then return end
  local times = T.failures_of(key)
  times[#times + 1] = T.now
  if #times >= most then
    local word = most == 1 and 'failure' or 'failures'
    local reason = string.format('%.0f %s within %g s', most, word, window / 1000)
    return T.block(key, limits[LIMIT_BLOCK], reason, string.format('%016.0f', T.draw_token()))
  end
  for at, time in ipairs(times) do times[at] = struct.pack('>d', time) end
  set(K.failing, 'f', key, T.now + window, table.concat(times))
end
