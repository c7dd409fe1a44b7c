-- Who waits for jobs, and telling as many as there is work for; when time is to be looked after, and by whom.

function T.channel(process) return T.base .. ':p:' .. process end

-- Tells a process that waits under this number to look; how many hear it: one that is gone does not.
function T.ring(process, number)
  return redis.call('SPUBLISH', T.channel(process), 'w' .. struct.pack('>d', number))
end

-- This process was told and has come, or will not come: the jobs it was told for are another's.
function T.untell(process)
  if T.told_room == 0 or redis.call('ZREM', K.told, process) == 0 then return end
  T.told_room = T.told_room - redis.call('HGET', K.room, process)
  redis.call('HDEL', K.room, process)
  T.dirty, T.stir = true, true
end

-- This process waits for so many jobs; it keeps its place where it has one, and the number that its place has.
function T.register(room)
  if T.told_room > 0 and redis.call('ZSCORE', K.told, T.caller) then return end
  local number = redis.call('ZSCORE', K.waiters, T.caller)
  if not number then
    number = T.draw_token()
    redis.call('ZADD', K.waiters, string.format('%.0f', number), T.caller)
    T.in_line = T.in_line + 1
  end
  redis.call('HSET', K.room, T.caller, room)
  T.number = tonumber(number)
  T.keep_time()
end

-- This process keeps the time where nobody does.
function T.keep_time()
  if T.keeper == T.caller then return end
  if T.keeper and redis.call('PUBSUB', 'SHARDNUMSUB', T.channel(T.keeper))[2] > 0 then return end
  T.keeper, T.proclaim = T.caller, true
end

-- Tells those who wait the longest, as many as the jobs need; all of them where some were told and never came.
function T.wake(all)
  if T.in_line == 0 then return end
  local available = T.paused and 0 or redis.call('ZCARD', K.available)
  local need, gone = available - T.told_room, 0
  while need > 0 or all and available > 0 do
    local process, number = unpack(redis.call('ZPOPMIN', K.waiters))
    if not process then return end
    T.in_line, T.dirty = T.in_line - 1, true
    if T.ring(process, number) == 0 then
      redis.call('HDEL', K.room, process)
      gone = gone + 1
      if gone == GONE_AT_ONCE then return T.due_at(T.now) end
    else
      local room = redis.call('HGET', K.room, process)
      redis.call('ZADD', K.told, string.format('%.0f', T.now + TOLD_FOR), process)
      T.told_room, need = T.told_room + room, need - room
      T.due_at(T.now + TOLD_FOR)
    end
  end
end

-- The least score of these indexes; infinite where they are empty.
function T.soonest_of(...)
  local soonest = math.huge
  for _, index in ipairs({...}) do
    local first = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')
    if first[2] then soonest = math.min(soonest, first[2]) end
  end
  return soonest
end

-- When something is due, on the elapsed clock; infinite for never.
function T.next_due()
  if T.behind then return T.now end
  local dated = T.soonest_of(K.dated) + T.skew
  return math.ceil(math.min(T.soonest_of(K.expiring, K.claimed, K.scheduled, K.told), dated))
end

-- To all who look after the time: in how many ms the next moment is, and who acts on it unless he is gone.
function T.proclaim_alarm()
  return redis.call('SPUBLISH', T.base .. ':alarm', struct.pack('>d', T.alarm - T.now) .. (T.keeper or ''))
end

-- Sets the alarm where something is due earlier. Where it is late, what it was set for is still there: looked up, then.
local function arm()
  if T.soonest == math.huge then return end
  if T.alarm <= T.now then T.soonest, T.alarm = math.min(T.soonest, T.next_due()), math.huge end
  if T.soonest < T.alarm then T.alarm, T.proclaim = T.soonest, true end
end

local function moment(at) return at < math.huge and string.format('%.0f', at) or 'never' end

-- The numbers of the queue, and further fields and values.
local function store(...)
  redis.call('HSET', K.meta, 'seq', T.seq, 'token', T.token, 'event', T.event, 'told_room', T.told_room,
    'in_line', T.in_line, 'alarm', moment(T.alarm), 'forget', moment(T.forget), 'keeper', T.keeper or '', ...)
  if T.new_queue then redis.call('HSET', K.meta, 'born', string.format('%.0f', T.micros)) end
end

-- What the caller may go by from now on: nothing, where it is a stranger and comes after so long a silence that those
-- who keep the time, if there are any, may know it for a jump; they are rung for.
local function skew_to_tell()
  if T.trusted or not T.seen or T.now <= T.seen + SILENCE then return T.skew end
  if not WRITES then return UNKNOWN_SKEW end
  if T.left and math.abs(T.wall - T.left) >= LEFT_FOR then return T.skew end -- they did not come
  local rung = redis.call('SPUBLISH', T.base .. ':alarm', struct.pack('>d', 0) .. (T.keeper or ''))
  return rung > 0 and UNKNOWN_SKEW or T.skew
end

-- The reply of every script has what a process is to know of the queue's time and of its own place in line.
function T.reply(answer)
  local alarm = T.alarm < math.huge and math.max(0, T.alarm - T.now) or -1
  return {T.now, skew_to_tell(), T.number or 0, alarm, T.keeper == T.caller and 1 or 0, answer}
end

-- The end of every script that writes: those who are needed are told, the numbers of the queue are stored.
function T.close(answer)
  if T.stir then T.wake(T.all) end
  if T.back > 0 and (T.short or T.paused or redis.call('ZCARD', K.available) <= T.told_room) then T.register(T.back) end
  arm()
  if T.proclaim then T.proclaim_alarm() end
  if T.dirty or T.proclaim then
    if T.vouched then store('seen', T.now) else store() end
  end
  return T.reply(answer)
end
