-- Limits on running jobs: who may become available, and who is let go when a slot is free.

T.limits = {}

function T.limit(field)
  if not T.limited then return false end
  if T.limits[field] == nil then T.limits[field] = tonumber(redis.call('HGET', K.limits, field) or nil) or false end
  return T.limits[field]
end

-- How many jobs of a key may run, '' being the whole queue.
function T.allowed(key)
  return key == '' and T.limit('q') or key ~= '' and (T.limit('k' .. key) or T.limit('e')) or math.huge
end

function T.room(key)
  local allowed = T.allowed(key)
  return allowed < math.huge and math.max(0, allowed - T.slots(key)) or math.huge
end

-- What a job would wait for: 2 a slot of its key, 1 one of the queue, nil nothing.
local function blocked(job)
  if not T.limited then return nil end
  if job[KEY] ~= '' and T.room(job[KEY]) < 1 then return 2 end
  if T.room('') < 1 then return 1 end
end

-- Makes a job available by this row, or holds it where a limit is full.
function T.admit(id, row, reason)
  local job, edge = T.jobs[id], EDGES[row]
  local held = blocked(job)
  T.touch(id)
  job[HELD] = held or 0
  if not held then return T.move(id, row, reason) end
  local own = reason or job[REASON]
  T.waits = true
  T.move(id, 'hold', row)
  job[REASON] = own
  if not edge.silent then job[VIA] = edge.code end
end

local function let_go(id)
  local job = T.jobs[id]
  if not job or job[STATE] ~= WAITING then return end
  local held = blocked(job)
  T.touch(id)
  job[HELD] = held or 0
  if not held then T.move(id, 'release') end
end

-- The first n ids that wait: for a slot of the key, or, '' given, of the queue.
local function in_line(key, n)
  local ids = {}
  if n < 1 then return ids end
  if key == '' then
    for _, member in ipairs(redis.call('ZRANGE', K.waiting, 0, n - 1)) do ids[#ids + 1] = string.sub(member, 9) end
    return ids
  end
  local prefix = T.frame(key) .. 'w'
  local found = redis.call('ZRANGEBYLEX', K.keyed, '[' .. prefix, '(' .. prefix .. '\255\255', 'LIMIT', 0, n)
  for _, member in ipairs(found) do ids[#ids + 1] = string.sub(member, #prefix + 17) end
  return ids
end

local function anyone_waits()
  if T.waits == nil then T.waits = redis.call('ZCARD', K.waiting) + redis.call('ZCARD', K.parked) > 0 end
  return T.waits
end

-- Lets go, of those in a key's line, as many as it has slots; returns how many it looked at.
local function let_go_of(key, most)
  local ids = in_line(key, math.min(most, T.room(key)))
  T.load(ids)
  for _, id in ipairs(ids) do let_go(id) end
  T.commit()
  return #ids
end

-- Lets go as many as fit of those that wait for what became free; true where more may fit than one call may move.
function T.release(keys)
  T.commit()
  if not T.limited or not anyone_waits() then return false end
  T.waits = nil
  local left = 500
  for _, key in ipairs(keys) do
    local looked = let_go_of(key, left)
    left = left - looked
    -- Who leaves the queue's line to wait for its key takes no slot: the next one may have it.
    while key == '' and looked > 0 and left > 0 and T.room('') > 0 do
      looked = let_go_of('', left)
      left = left - looked
    end
  end
  return left == 0
end

-- The keys whose slots this script gave back, the queue itself last.
function T.release_freed()
  local keys = {}
  for key in pairs(T.freed) do if key ~= '' then keys[#keys + 1] = key end end
  if T.freed[''] then keys[#keys + 1] = '' end
  T.freed = {}
  -- Under a lowered limit, what is available may have waited for less to run.
  if #keys > 0 and T.limited then T.stir = true end
  if #keys > 0 then return T.release(keys) end
  T.commit()
end

-- After each item: the next one finds what it would find as a request of its own.
function T.next_item()
  if T.limited and next(T.freed) and anyone_waits() then T.release_freed() end
end

-- Answers each item for itself; act gets its id and the place of its first argument.
function T.each(first, width, act)
  local answers = {}
  for at, id in ipairs(T.items(first, width)) do
    answers[at] = act(id, first + width * (at - 1))
    T.next_item()
  end
  T.commit()
  return answers
end
