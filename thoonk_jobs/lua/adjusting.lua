-- After a limit changed: parking what is over it, letting go what fits now, a bounded part at a time.

local function park_over(field, key)
  local room = T.room(key)
  local ids = last_available(key, math.min(-room, T.budget))
  for _, id in ipairs(ids) do park(id, key == '' and 1 or 2) end
  T.budget = T.budget - #ids
  if T.budget == 0 and #ids < -room then T.later(field) end
end

local function adjust_one(field)
  local key = string.sub(field, 2)
  park_over(field, key)
  T.freed[key] = true
  T.release_freed()
end

local function first_key(from)
  local member = redis.call('ZRANGEBYLEX', K.keyed, from, '+', 'LIMIT', 0, 1)[1]
  return member and struct.unpack('>Hc0', member)
end

-- All keys that have jobs, from one of them on; together, so that one entry of the log carries many.
local function adjust_each(from)
  local key, ready = first_key(from), {}
  while key and T.budget > 0 do
    park_over('k' .. key, key)
    add_next(ready, key)
    T.budget = math.max(0, T.budget - 1)
    from = '(' .. T.frame(key) .. '\255'
    key = first_key(from)
  end
  if key then T.later('e', from) end
  if T.lines_changed then T.commit() end
  T.freed = {}
  let_go_in_order(ready)
  T.release_freed()
end

-- Makes true what a field of the key limits says; from: for each key, where to go on.
function T.adjust(field, from)
  if field == 'e' then adjust_each(from) else adjust_one(field) end
end

-- What is left of former changes.
function T.adjust_behind()
  if not T.behind then return end
  local fields = redis.call('HGETALL', K.behind)
  redis.call('DEL', K.behind)
  for at = 1, #fields, 2 do
    if T.budget > 0 then T.adjust(fields[at], fields[at + 1]) else T.later(fields[at], fields[at + 1]) end
  end
  T.store_limited()
end
