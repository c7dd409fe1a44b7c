-- The numbers of the limits, and the slots that are taken. A key is a job's; '' stands for the whole queue.

T.limits = {} -- key -> what holds for it

-- Whether the queue is limited, and some of its keys are.
T.queue_limited = string.find(T.limited, 'q', 1, true) ~= nil
T.keys_limited = string.find(T.limited, 'k', 1, true) ~= nil

-- To be called when the limits changed, or the lines before them.
function T.store_limited()
  local function any(index) return redis.call('ZCARD', index) > 0 end
  local own = redis.call('HEXISTS', K.limits, 'q')
  T.queue_limited = own == 1 or any(K.waiting)
  T.keys_limited = redis.call('HLEN', K.limits) > own or any(K.parked)
  T.behind = redis.call('EXISTS', K.behind) == 1
  T.limited = (T.queue_limited and 'q' or '') .. (T.keys_limited and 'k' or '') .. (T.behind and 'm' or '')
  redis.call('HSET', K.meta, 'limited', T.limited)
end

-- The numbers of a field of the key limits, those that it does not set from another one; none is infinite.
local function numbers(raw, usual)
  local found = raw and {struct.unpack(LIMIT_FORMAT, raw)} or {}
  for at = 1, LIMIT_SIZE do
    if not found[at] or found[at] ~= found[at] then found[at] = usual and usual[at] or math.huge end
  end
  return found
end

-- What holds for a key: its own numbers, and else those of each key; how long it is blocked, and why.
function T.limits_of(key)
  local found = T.limits[key]
  if found then return found end
  if key == '' then
    found = numbers(T.queue_limited and redis.call('HGET', K.limits, 'q'))
  elseif not T.keys_limited then
    found = numbers()
  else
    local raw = redis.call('HMGET', K.limits, 'k' .. key, 'e', 'b' .. key)
    T.of_each = T.of_each or numbers(raw[2])
    found = (raw[1] or raw[3]) and numbers(raw[1], T.of_each) or T.of_each
    if raw[3] then
      found.blocked_until, found.request = struct.unpack('>dc16', raw[3])
      found.reason = string.sub(raw[3], 25)
    end
  end
  T.limits[key] = found
  return found
end

-- The slots that the jobs of a key hold; counted once, then kept by the moves.
function T.slots(key)
  if not T.held_by[key] then
    local prefix = T.frame(key)
    local counted = key == '' and redis.call('ZCARD', K.available) + redis.call('ZCARD', K.claimed)
      or redis.call('ZLEXCOUNT', K.keyed, '[' .. prefix .. 'c', '(' .. prefix .. 's')
    T.held_by[key] = counted + (T.changed[key] or 0)
  end
  return T.held_by[key]
end

-- How many more jobs of a key may become available; below 0 where a limit was lowered.
function T.room(key)
  local most = T.limits_of(key)[LIMIT_RUNNING]
  return most < math.huge and most - T.slots(key) or math.huge
end

local function count_slot(key, change)
  T.changed[key] = (T.changed[key] or 0) + change
  if T.held_by[key] then T.held_by[key] = T.held_by[key] + change end
  if change < 0 then T.freed[key] = true end
end

-- A job takes its slots when it becomes available, and gives them back when it is neither that nor claimed.
function T.move_slot(id, job, from, to)
  local change, key = (T.slotted[to] and 1 or 0) - (T.slotted[from] and 1 or 0), job[KEY]
  if change ~= 0 and T.queue_limited then count_slot('', change) end
  if change ~= 0 and T.keys_limited and key ~= '' then count_slot(key, change) end
  if from == CLAIMED and to == AVAILABLE then T.came_back[#T.came_back + 1] = id end
  if from == WAITING or to == WAITING then T.lines_changed = true end
  if from == WAITING then job[HELD] = 0 end
  -- One that was next in its key's line and waited for the queue: the next of that key may be let go.
  if from == WAITING and to ~= AVAILABLE and key ~= '' then T.freed[key] = true end
end
