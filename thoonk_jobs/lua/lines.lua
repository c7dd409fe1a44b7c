-- The lines before the limits: who becomes available or has to wait, who gives way, who is let go when a slot is free.

T.came_back = {} -- jobs whose claim ended and that are available again
T.budget = 500 -- jobs that this call may still let go or park

-- Ids of jobs of a key in a class of the index keyed, the most urgent first, or from the other end.
local function of_key(key, class, most, last)
  local prefix = T.frame(key) .. class
  local from, to = '[' .. prefix, '(' .. prefix .. '\255\255'
  local found = last and redis.call('ZREVRANGEBYLEX', K.keyed, to, from, 'LIMIT', 0, most)
    or redis.call('ZRANGEBYLEX', K.keyed, from, to, 'LIMIT', 0, most)
  for at, member in ipairs(found) do found[at] = string.sub(member, #prefix + 17) end
  return found
end

local function of_queue(command, index, first, most)
  local found = redis.call(command, index, first, first + most - 1)
  for at, member in ipairs(found) do found[at] = string.sub(member, 9) end
  return found
end

-- The first ids of those that wait for a slot.
local function line(key, most, first)
  if most < 1 then return {} end
  local ids = key == '' and of_queue('ZRANGE', K.waiting, first or 0, most) or of_key(key, 'w', most)
  T.load(ids)
  return ids
end

-- The last ids of those that have a slot and did not start yet.
local function last_available(key, most)
  if most < 1 then return {} end
  local ids = key == '' and of_queue('ZREVRANGE', K.available, 0, most) or of_key(key, 'r', most, true)
  T.load(ids)
  return ids
end

local function anyone_waits()
  if T.waits == nil then T.waits = redis.call('ZCARD', K.waiting) + redis.call('ZCARD', K.parked) > 0 end
  return T.waits
end

-- What a job would wait for: 2 a slot of its key, 1 one of the queue, nil nothing.
local function wanting(job)
  if job[KEY] ~= '' and T.room(job[KEY]) < 1 then return 2 end
  if T.room('') < 1 then return 1 end
end

local function park(id, held)
  T.touch(id)
  T.jobs[id][HELD], T.waits = held, true
  T.move(id, 'park')
end

-- The last id of those that have a slot, did not start yet and are less urgent than this job.
local function less_urgent(job, held)
  if held == 1 then
    local above = string.format('(%.17g', -job[PRIORITY])
    local last = redis.call('ZREVRANGEBYSCORE', K.available, '+inf', above, 'LIMIT', 0, 1)[1]
    return last and string.sub(last, 9)
  end
  local prefix = T.frame(job[KEY]) .. 'r'
  local above = '(' .. prefix .. T.sortable(-job[PRIORITY]) .. '\255'
  local last = redis.call('ZREVRANGEBYLEX', K.keyed, '(' .. prefix .. '\255\255', above, 'LIMIT', 0, 1)[1]
  return last and string.sub(last, #prefix + 17)
end

-- A less urgent job that did not start yet gives its slot to this one, if there is one.
local function make_room(job, held)
  if T.least < job[PRIORITY] or next(T.freed) then T.commit() end
  local last = less_urgent(job, held)
  if not last then return held end
  T.load({last})
  park(last, held)
  T.least = -math.huge
  return wanting(job)
end

-- Makes a job available by this row, or holds it where a limit is full.
function T.admit(id, row, reason)
  local job, edge, held = T.jobs[id], EDGES[row], nil
  if T.limited ~= '' then
    held = wanting(job)
    held = held and make_room(job, held)
    if not held then T.least = math.min(T.least, job[PRIORITY]) end
  end
  T.touch(id)
  job[HELD] = held or 0
  if not held then return T.move(id, row, reason) end
  local own = reason or job[REASON]
  T.waits = true
  T.move(id, 'hold', row)
  job[REASON] = own
  if not edge.silent then job[VIA] = edge.code end
end

local function more_urgent(one, other)
  local a, b = T.jobs[one], T.jobs[other]
  if a[PRIORITY] ~= b[PRIORITY] then return a[PRIORITY] > b[PRIORITY] end
  return a[ORDER] < b[ORDER]
end

-- One that has room in its key takes a slot of the queue from a less urgent one, as it would had it just been published.
local function let_go(id)
  local job = T.jobs[id]
  local held = wanting(job)
  if held == 1 then held = make_room(job, held) end
  if not held then
    T.least = math.min(T.least, job[PRIORITY])
    return T.move(id, 'release')
  end
  T.touch(id)
  job[HELD] = held
end

-- Whether somebody in the queue's line is more urgent than this job and could have its slot. Those whose key is full
-- could not, unless the job has that key as well: they go back to the line of their key, so that nobody meets them again.
local function is_overtaken(job)
  local seen, ids, passed = 0, line('', 50), 0
  local function answer(found)
    if passed > 0 then T.commit() end
    return found
  end
  while #ids > 0 do
    for _, id in ipairs(ids) do
      local other = T.jobs[id]
      if other[PRIORITY] <= job[PRIORITY] then return answer(false) end
      if other[KEY] == '' or other[KEY] == job[KEY] or T.room(other[KEY]) > 0 then return answer(true) end
      if T.budget == 0 then return answer(true) end -- its slot will tell who is next
      let_go(id)
      T.budget, passed = T.budget - 1, passed + 1
    end
    seen = seen + #ids
    ids = line('', 50, seen)
  end
  return answer(false)
end

-- Whether a job that came back loses its slot: a limit was lowered meanwhile, or somebody more urgent waits for it.
local function must_yield(job, key)
  local room = T.room(key)
  if room ~= 0 then return room < 0 end
  if key == '' then return is_overtaken(job) end
  local first = line(key, 1)[1]
  return first and T.jobs[first][PRIORITY] > job[PRIORITY]
end

-- True where it had to give its slot up.
local function yield_if_due(id)
  local job, held = T.jobs[id], nil
  if job[STATE] ~= AVAILABLE then return false end
  if job[KEY] ~= '' and must_yield(job, job[KEY]) then held = 2 elseif must_yield(job, '') then held = 1 end
  if held then park(id, held) end
  return held ~= nil
end

-- The rest of what follows from a field of the key limits is for the alarm, which is due at once.
function T.later(field, from)
  redis.call('HSET', K.behind, field, from or '-')
  T.store_limited()
  T.due_at(T.now)
  T.dirty = true
end

-- Adds who is next in the line of a key, as many as have room.
local function add_next(ready, key)
  local room = T.room(key)
  local most = math.min(room, T.budget)
  local ids = most > 0 and of_key(key, 'w', most) or {}
  for _, id in ipairs(ids) do ready[#ready + 1] = id end
  if #ids == most and room > most then T.later('k' .. key) end
  T.budget = T.budget - #ids
end

-- Lets go these, from the lines of their keys, and those in the queue's line, the most urgent first, while there is room.
local function let_go_in_order(ready)
  T.load(ready)
  table.sort(ready, more_urgent)
  local own, at, seen = 1, 1, 0
  local waiting = T.queue_limited and line('', math.min(50, T.room(''))) or {}
  local part = #waiting
  while T.room('') > 0 and (ready[own] or T.budget > 0 and waiting[at]) do
    local one, other = ready[own], T.budget > 0 and waiting[at]
    if one and (not other or more_urgent(one, other)) then
      own = own + 1
      let_go(one)
    else
      at, T.budget = at + 1, T.budget - 1
      let_go(other)
    end
    if at > part and part > 0 then
      seen = seen + part
      at, waiting = 1, line('', 50, seen)
      part = #waiting
    end
  end
  for place = own, #ready do let_go(ready[place]) end
  if waiting[at] and T.room('') > 0 then T.later('q') end
end

-- Lets go as many as fit of those that wait for what this script gave back.
function T.release_freed()
  while next(T.freed) do -- who gave way to one that was let go gave a slot of its key back, too
    local freed = T.freed
    T.freed = {}
    if T.limited ~= '' and anyone_waits() then
      if T.lines_changed then T.commit() end
      T.waits = nil
      local ready = {}
      for key in pairs(freed) do
        if key ~= '' then add_next(ready, key) end
      end
      let_go_in_order(ready)
    end
  end
  T.commit()
end

-- Those who came back give way to who comes before them; each slot is taken before the next of them is looked at, or
-- the second would keep its own though somebody more urgent still waits.
function T.give_way()
  local ids = T.came_back
  if #ids == 0 then return end
  T.came_back = {}
  T.release_freed()
  for _, id in ipairs(ids) do
    if yield_if_due(id) then T.release_freed() end
  end
end

-- Answers each item for itself; act gets its id and the place of its first argument.
function T.each(first, width, act)
  local answers = {}
  for at, id in ipairs(T.items(first, width)) do answers[at] = act(id, first + width * (at - 1)) end
  return answers
end
